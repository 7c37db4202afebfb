"""What a task gives its guests of the host, as far as the operator allows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.errors import InvalidRequest, PermissionDenied
from spear_wasm.model import ErrorCode
from spear_wasm.values import shown
from spear_wasm.wasi.errno import WasiError
from spear_wasm.wasi.volume import Scratch, Volume, sweep_scratch

if TYPE_CHECKING:
    from spear_wasm.config import RuntimeConfig
    from spear_wasm.wishes import Wishes

SCRATCH_NAME = "/tmp"  # noqa: S108  the guest's own, not the host's
MAX_DIRECTORIES = 16

GuestT = TypeVar("GuestT")


@dataclass(frozen=True, slots=True)
class GrantedDirectory:
    """A directory of the host, and the path by which guests know it."""

    name: str
    path: Path
    writable: bool


@dataclass(frozen=True, slots=True)
class Grants:
    """What each guest of a task has; `scratch` in bytes, 0 for none."""

    environment: Mapping[str, str]
    directories: tuple[GrantedDirectory, ...]
    scratch: int

    @classmethod
    def parse(cls, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig) -> Grants:
        """The keys `directories`, `writable_directories` and `scratch` of a runtime_config.

        Raises:
            InvalidRequest: a key makes no sense, or a directory is not there.
            PermissionDenied: the operator did not allow it.
        """
        directories = [
            grant_directory(name, path, allowed, key, writable=writable)
            for key, writable in (("directories", False), ("writable_directories", True))
            for name, path in wishes.table(key).items()
        ]
        scratch = wishes.size("scratch", most=2**63 - 1)
        if scratch > allowed.max_scratch:
            raise PermissionDenied(
                f"runtime_config.scratch is {scratch} bytes; the operator allows {int(allowed.max_scratch)} "
                "(runtimes.max_scratch)"
            )
        names = [each.name for each in directories] + [SCRATCH_NAME] * bool(scratch)
        if len(set(names)) != len(names) or len(names) > MAX_DIRECTORIES:
            raise InvalidRequest(
                f"at most {MAX_DIRECTORIES} directories can be granted, each by a path of its own"
                f"{f' that is not {SCRATCH_NAME}' if scratch else ''}"
            )
        if scratch:
            sweep_scratch()
        return cls(environment, tuple(directories), scratch)

    def given_to(self, make: Callable[[Mapping[str, str], Sequence[Volume]], GuestT]) -> GuestT:
        """What `make` makes of variables and volumes, which are its to close, for one sandbox.

        Raises:
            GuestFault: a directory is not there any more, or there is no room for another one.
        """
        try:
            return make(self.environment, self._new_volumes())
        except (OSError, WasiError) as error:
            reason = shown(getattr(error, "strerror", None) or str(error))
            raise GuestFault(
                ErrorCode.INSTANCE_FAILED, f"what the task grants cannot be had: {reason}"
            ) from None

    def _new_volumes(self) -> list[Volume]:
        volumes: list[Volume] = [
            Volume(each.name, each.path, writable=each.writable) for each in self.directories
        ]
        if self.scratch:
            volumes.append(Scratch(SCRATCH_NAME, self.scratch))
        return volumes


def grant_directory(
    name: str, path: str, allowed: RuntimeConfig, key: str, *, writable: bool
) -> GrantedDirectory:
    """A directory of the host, by the path `name` for guests; `key` is where in a runtime_config it is asked for.

    Raises:
        InvalidRequest: there is none.
        PermissionDenied: the operator did not allow it.
    """
    roots = allowed.writable_directories + (() if writable else allowed.readable_directories)
    resolved = Path(os.path.realpath(path)) if "\0" not in path else None
    if resolved is None or not any(resolved.is_relative_to(os.path.realpath(root)) for root in roots):
        needed = "writable_directories" if writable else "readable_directories"
        raise PermissionDenied(
            f"runtime_config.{key} asks for {shown(path, 200)}, which is not below a directory that the operator "
            f"allows (runtimes.{needed})"
        )
    if not resolved.is_dir():
        raise InvalidRequest(f"runtime_config.{key} asks for {shown(path, 200)}, which is no directory")
    return GrantedDirectory(name, resolved, writable)
