"""Raw scans to clean CXI files, offline: from a raw CXI file or a recorded run, in blocks, over any executor.

`nsbluesky.conversion.run_scan.scan_of_run` reads recorded runs.  It stands apart because it needs all that handles
documents, which a worker process that only cleans need not load.
"""

from nsbluesky.conversion.clean_file import stage_path
from nsbluesky.conversion.conversion import Conversion, convert
from nsbluesky.conversion.cxi_scan import scan_of_cxi
from nsbluesky.conversion.frames import ConversionError, StoredFrames
from nsbluesky.conversion.scan import RawScan
from nsbluesky.conversion.workers import Workers

__all__ = [
    "Conversion",
    "ConversionError",
    "RawScan",
    "StoredFrames",
    "Workers",
    "convert",
    "scan_of_cxi",
    "stage_path",
]
