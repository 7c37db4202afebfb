"""The engines of a host: guests whose fuel is counted run on another one than the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from spear_wasm.engine.engine import Engine
from spear_wasm.engine.settings import EngineSettings
from spear_wasm.errors import SandboxUnavailable

MAPS_OF_A_STACK = 2
"""Areas of memory that the kernel tells apart for the stack of each sandbox that there may be: itself and its guard."""
MAPS_OF_A_MEMORY = 2
"""Those for the memory of each that there is, at least: what the guest has, and what it may grow to."""
OTHER_MAPS = 1000
"""More than a server has otherwise."""
MOST_ADDRESSES = 1 << 46
"""Half of what a process can address, for the memories of one engine."""


class Engines:
    """At most one engine that meters fuel, and one that does not; each is made when it is first asked for.

    An engine takes address space for as many sandboxes as it may have, and areas of it. There is no way back from a
    kernel that refuses them: the library ends the process. So they are counted first. Thread-safe.
    """

    def __init__(self, settings: Iterable[EngineSettings], tick: float) -> None:
        self._settings = {each.metered: each for each in settings}
        self._tick = tick
        self._lock = threading.Lock()  # guards: _open, and the counting of maps before one is made
        self._open: dict[bool, Engine] = {}

    def get(self, *, metered: bool) -> Engine:
        """The engine of a kind.

        Raises:
            SandboxUnavailable: the kernel would not let this process have it.
        """
        with self._lock:
            engine = self._open.get(metered)
            if engine is None:
                settings = self._settings[metered]
                _check_addresses(settings)
                _check_maps(settings)
                engine = self._open[metered] = Engine(settings, self._tick)
            return engine

    def open(self) -> list[Engine]:
        """Those that there are."""
        with self._lock:
            return list(self._open.values())

    def close(self) -> None:
        """Give them back. Nothing made from them may be alive."""
        for engine in self.open():
            engine.close()


def _check_addresses(settings: EngineSettings) -> None:
    if settings.reserved_bytes > MOST_ADDRESSES:
        raise SandboxUnavailable(
            f"{settings.sandboxes} sandboxes of at most {settings.max_memory_bytes} bytes need more addresses than a "
            "process has; lower engine.sandboxes or ceiling.max_memory"
        )


def _check_maps(settings: EngineSettings) -> None:
    most = _most_maps()
    needed = OTHER_MAPS + settings.sandboxes * (MAPS_OF_A_STACK + MAPS_OF_A_MEMORY)
    if most is not None and _maps() + needed > most:
        raise SandboxUnavailable(
            f"{settings.sandboxes} sandboxes need {needed} areas of memory, and the kernel lets a process have {most}; "
            "lower engine.sandboxes, or raise the sysctl vm.max_map_count"
        )


def _maps() -> int:
    with Path("/proc/self/maps").open("rb") as lines:
        return sum(1 for _ in lines)


def _most_maps() -> int | None:
    """How many areas a process may have; None where that cannot be known."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except OSError:
        return None
