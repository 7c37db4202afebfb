"""Servers that a user might pick instead, and the least that any of their kind can do."""
