"""What one compilation yields, besides the machine code in its file."""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.model import ModuleInfo


@dataclass(frozen=True, slots=True)
class Compilation:
    """The module as its binary describes it, and the wall time in seconds that compiling it took."""

    module: ModuleInfo
    seconds: float
