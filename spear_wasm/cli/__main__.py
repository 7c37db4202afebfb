"""`python -m spear_wasm.cli` is `spear-wasm`."""

from __future__ import annotations

from spear_wasm.cli import main

main()
