"""WASI preview 2: what components import, as host functions of ours."""
