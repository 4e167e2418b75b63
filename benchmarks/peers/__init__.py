"""Reconstructions of the same data by this package and by others, each in a process of its own.

A runner is started as ``python -m benchmarks.peers.NAME DATA FOLDER LIMIT_S ENGINE``, by the Python that its package
is installed for.  One for another package may import nothing of this project but `benchmarks.peers.runs`.
"""
