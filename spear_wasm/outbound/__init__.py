"""Connections that this host makes to others, on behalf of callers and guests whom it does not trust."""
