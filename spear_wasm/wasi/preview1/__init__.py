"""WASI preview 1: what core modules import, as host functions of ours."""
