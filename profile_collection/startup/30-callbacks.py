"""What happens to documents: the verbatim log, the catalog, and the processing, in a process of its own."""

pipeline = session.subscribe(RE, catalog, site, service=processing)
