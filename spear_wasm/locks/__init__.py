"""Locks between processes: one server to a data directory, and what its workers do one, or so many, at a time."""
