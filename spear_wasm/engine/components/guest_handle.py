"""Resources of the guest's own, as its host has them."""

from __future__ import annotations

from spear_wasm.engine import capi


class GuestHandle:
    """A handle to a resource of the guest's own, which stays in its sandbox."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address

    def close(self) -> None:
        """Give the handle back, once. The resource stays: dropping it would be a call of the guest."""
        capi.resource_any_delete(self.address)
