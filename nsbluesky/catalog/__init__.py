"""The catalog: databroker on tiled and SQLite, read in the session and written by a process beside it.

============  ==========================================================
embedded      the catalog itself: tiled's server inside this process
current       its client, whose look-ups wait for what is being written
writer        the callback: documents into logs on disk
supervisor    the session's end of the writing process
process       the writing process: from the logs into the catalog
waiting       the logs of runs that are not in the catalog yet
run_writer    one run on its way into tiled
============  ==========================================================
"""

from nsbluesky.heap import no_collections

with no_collections():  # a quarter of the seconds that tiled takes to import
    from nsbluesky.catalog.current import CatalogBehind
    from nsbluesky.catalog.embedded import Catalog, open_catalog
    from nsbluesky.catalog.writer import CatalogWriter

__all__ = ["Catalog", "CatalogBehind", "CatalogWriter", "open_catalog"]
