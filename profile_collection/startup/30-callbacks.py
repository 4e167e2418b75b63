"""What happens to documents: the verbatim log, the catalog, and the processing up to the image."""

pipeline = session.subscribe(RE, catalog, site)
