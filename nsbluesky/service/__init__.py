"""The processing in a process of its own, apart from the session: documents in, pictures out, and nothing is lost.

============  ==========================================================================
wire          documents and arrays as bytes
messages      what may be asked of the service
access        who may ask: tokens on this machine, keys beyond it
intake        numbered documents, in order and once
snapshot      what a viewer needs that comes late
server        the sockets
process       the process: priority, logs, pipeline
dask_workers  who cleans frames in its place, on this machine or many
supervisor    starts that process, and again when it dies or hangs
backlog       documents that the service does not have yet
connection    the session's end: ``RE.subscribe(nsbluesky.connect())``
subscriber    the viewer's end
============  ==========================================================================
"""
