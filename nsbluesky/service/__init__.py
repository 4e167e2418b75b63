"""The processing in a process of its own, apart from the session: documents in, pictures out, and nothing is lost.

=================  ==========================================================================
settings           where it listens, what it may read, who cleans its frames
wire               documents and arrays as bytes
messages           what may be asked of the service
access             what a client shows: a token on this machine, keys beyond it
keys               the folder of keys, with the roles of clients
rights             the server's side: who may connect, and who may change something
intake             numbered documents, in order and once
processing         the pipeline with its files, and which of its runs are over
finished           the record of the runs that are over
configured         settings that were changed while it ran
recorded_settings  those that a run was processed with
crashes            which block was at work when the process died, and how often
snapshot           what a viewer needs that comes late
publisher          small copies of derived documents for viewers, and the heartbeat
server             the sockets
logs               a log for each module
order              what that process is told at its start, and what it answers
process            the process: priority, logs, lifeline
supervisor         starts that process, and again when it dies or hangs
dask_workers       who cleans frames in its place, on this machine or many
dask_shards        who reconstructs, each a part of the frames
control            a client's questions
backlog            documents that the service does not have yet
connection         the session's end: ``RE.subscribe(nsbluesky.connect())``
subscriber         the viewer's end
remote_processing  what the buttons of a window do
stored             the last picture of a run that nobody was listening to
=================  ==========================================================================
"""
