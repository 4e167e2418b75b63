"""A session that measures: the documents of a recorded run, one after the other, into its log and to the service.

argv: address of the service, folder of the session, a document log to take the documents from.  It says when it has
begun, and at its end how many frames are in the image, and where the file is.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.service.connection import connect

TIMEOUT_S = 90.0
PERIOD_S = 0.004

address, folder, recorded = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
log, pace = DocumentLog(folder / "documents"), threading.Event()
with connect(address, log) as connection:
    print("measures", flush=True)
    for name, document in read_documents(recorded):
        log(name, document)
        connection(name, document)
        pace.wait(PERIOD_S)
    finished = connection.wait(TIMEOUT_S)
    result = connection.results.get(recorded.stem, {}) if finished else {}
    print(json.dumps({"frames": result.get("num_frames", 0), "cxi": str(connection.cxi_path(recorded.stem))}))
