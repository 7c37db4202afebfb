"""The only importer of wasmtime: engines, compiled code, sandboxes, and how a guest's run ends."""
