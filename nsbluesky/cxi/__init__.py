"""CXI files for ptychography: written while a scan runs, read defensively, checked against the format's rules.

The layout stands in `nsbluesky.cxi.layout`.  Writing has three forms: `CxiFile` for clean frames and pictures as
they come, `write_raw_cxi` for what a camera gave, `siemens_star_to_cxi` for the measured example.
"""

from nsbluesky.cxi.convert import siemens_star_to_cxi
from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.raw import write_raw_cxi
from nsbluesky.cxi.read import CxiData, CxiImage, FrameStack, read_cxi
from nsbluesky.cxi.recover import recover
from nsbluesky.cxi.validate import validate
from nsbluesky.cxi.write import CxiFile

__all__ = [
    "CxiData",
    "CxiError",
    "CxiFile",
    "CxiImage",
    "FrameStack",
    "read_cxi",
    "recover",
    "siemens_star_to_cxi",
    "validate",
    "write_raw_cxi",
]
