"""Bluesky callbacks: one file per stage of the processing, documents in, documents out."""
