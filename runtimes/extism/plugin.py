"""What is kept at its host for a plug-in: its variables, what it will be handed, and the last answer it got."""

from __future__ import annotations

from typing import cast

from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.model import ErrorCode
from spear_wasm.outbound.client import Response
from spear_wasm.wasi.preview1.guest import WasiGuest

from .settings import PluginSettings

NOTHING = -1
VAR_OVERHEAD = 64
"""What a variable counts besides its bytes: what it costs the host to keep one."""


class Variables:
    """What a plug-in has stored under its keys, so many bytes at most."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: dict[bytes, bytes] = {}
        self._size = 0

    def get(self, key: bytes) -> bytes | None:
        """What is stored, if anything is."""
        return self._values.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Store something instead of what there was.

        Raises:
            GuestFault: there is no room for it.
        """
        self.remove(key)
        size = len(key) + len(value) + VAR_OVERHEAD
        if self._size + size > self._max_bytes:
            raise GuestFault(
                ErrorCode.GUEST_ERROR,
                f"the plug-in's variables would take {self._size + size} bytes; the limit is {self._max_bytes}",
            )
        self._size += size
        self._values[key] = value

    def remove(self, key: bytes) -> None:
        """Store nothing."""
        old = self._values.pop(key, None)
        if old is not None:
            self._size -= len(key) + len(old) + VAR_OVERHEAD


class Plugin:
    """What is kept for one plug-in as long as its sandbox lives.

    `handed_over` is what the kernel has been told the size of and will take next, `response` the last one to a
    request of the plug-in's; it is kept without what it holds. `wasi` is what the plug-in has of the world, if it asks.
    """

    def __init__(self, settings: PluginSettings, wasi: WasiGuest | None) -> None:
        self.settings = settings
        self.wasi = wasi
        self.variables = Variables(settings.max_var_bytes)
        self.handed_over = b""
        self.response: Response | None = None

    def hand_over(self, content: bytes | None) -> int:
        """Keep something until the kernel takes it; its size, or that there is nothing."""
        self.handed_over = content or b""
        return NOTHING if content is None else len(content)

    @property
    def slow_to_close(self) -> bool:
        """Whether what it has open takes long to close."""
        return self.wasi is not None and self.wasi.slow_to_close

    def close(self) -> None:
        """Close all that it has open."""
        if self.wasi is not None:
            self.wasi.close()


def plugin_of(sandbox: AccompaniedSandbox) -> Plugin:
    """What is kept for the plug-in in a sandbox."""
    return cast("Plugin", sandbox.state)


def read_block(sandbox: AccompaniedSandbox, what: str, offset: int, length: int) -> bytes:
    """A copy of what is in one of the plug-in's blocks; `what` says what that should be.

    Raises:
        GuestFault: there is no block.
    """
    # An empty block is at 0. The kernel gives no length where there is no block.
    if offset and not length:
        raise GuestFault(
            ErrorCode.GUEST_ERROR, f"{what} is at offset {offset & 0xFFFFFFFF}, where the plug-in has nothing"
        )
    return sandbox.read_companion(offset, length)
