"""A host for untrusted WebAssembly functions behind gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spear_wasm.client import CallResult, Client, GuestFailure, Invocation

__all__ = ["CallResult", "Client", "GuestFailure", "Invocation"]


def __getattr__(name: str) -> object:
    # The client pulls in gRPC, which the processes that only compile must not pay for.
    if name in __all__:
        from spear_wasm import client  # noqa: PLC0415  see above

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
