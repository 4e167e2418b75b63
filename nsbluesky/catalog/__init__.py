"""The catalog: databroker on tiled and SQLite, read in the session and written by a process beside it.

============  ==========================================================
catalog       what a session has of it; nothing of tiled before the first look
lazy_client   what stands for its client till then
database      its file: whether there can be a catalog is seen at once
embedded      the catalog itself: tiled's server inside this process
current       its client, whose look-ups wait for what is being written
writer        the callback: documents into logs on disk
supervisor    the session's end of the writing process
process       the writing process: from the logs into the catalog
waiting       the logs of runs that are not in the catalog yet
run_writer    one run on its way into tiled
============  ==========================================================
"""

from nsbluesky.catalog.catalog import Catalog, open_catalog
from nsbluesky.catalog.current import CatalogBehind
from nsbluesky.catalog.writer import CatalogWriter

__all__ = ["Catalog", "CatalogBehind", "CatalogWriter", "open_catalog"]
