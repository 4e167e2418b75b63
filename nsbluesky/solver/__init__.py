"""Incremental ptychography: forward model, engines, probe start, quality."""
