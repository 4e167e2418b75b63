"""Raw scans to clean CXI files, offline: from a raw CXI file or a recorded run, in blocks, over any executor."""

from nsbluesky.conversion.clean_file import stage_path
from nsbluesky.conversion.convert import Conversion, convert
from nsbluesky.conversion.cxi_scan import scan_of_cxi
from nsbluesky.conversion.frames import ConversionError, StoredFrames
from nsbluesky.conversion.run_scan import scan_of_run
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
    "scan_of_run",
    "stage_path",
]
