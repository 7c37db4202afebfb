"""Artifacts: their names, the content-addressed store of their bytes, the cache of their machine code."""
