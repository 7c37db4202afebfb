"""Runtimes: the contracts between us and kinds of guests, and where they are found.

A runtime lives in a folder with a `runtime.toml` (its name, a description, its host file) and a Python file
that defines `RUNTIME`, an object of the protocol below. Folders come with the package, from directories that
the operator names, and from the entry-point group `spear_wasm.runtimes` (an entry point is a RUNTIME object).
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from spear_wasm.errors import ConfigurationError, UnknownRuntime
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from spear_wasm.config import RuntimeConfig
    from spear_wasm.engine.host_calls import HostFunction
    from spear_wasm.engine.sandbox import Sandbox, Steps
    from spear_wasm.limits import Limits
    from spear_wasm.model import Import, ModuleInfo, Parameter, Signature, TypedValue

FOLDERS = ("_runtimes", "../runtimes")
"""Where our own runtimes are, seen from this file: in an installed package, and in a checkout."""
ANY_RUNTIME = frozenset({"", "wasm"})
"""Artifact types that mean: find the runtime from the module itself."""


class CallableFunction(Protocol):
    """One function of one artifact, bound once and called many times."""

    signature: Signature

    def arguments(self, parameters: Sequence[Parameter], limits: Limits) -> object:
        """What `steps` needs, checked and converted; opaque to everyone else.

        Raises:
            InvalidRequest: the parameters do not fit the signature, or are above max_input_bytes.
        """
        ...

    def steps(
        self, sandbox: Sandbox, arguments: object, limits: Limits
    ) -> Generator[None, None, tuple[TypedValue, ...]]:
        """Run the guest, one slice a step; returns its results.

        Raises:
            GuestFault: the guest failed, or its result is above max_output_bytes.
        """
        ...


@runtime_checkable
class Runtime(Protocol):
    """A guest contract: how a kind of guest is recognised, linked and called."""

    name: str

    def recognises(self, module: ModuleInfo) -> bool:
        """Whether the module is a guest of this kind."""
        ...

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction]:
        """The functions that the module imports, by module and name.

        Raises:
            UnlinkableArtifact: it imports something that this runtime does not provide.
        """
        ...

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """The functions that callers may call."""
        ...

    def bind(self, module: ModuleInfo, function: str) -> CallableFunction | None:
        """One of those functions, ready to call; None where there is none of that name."""
        ...

    def preparation(self, module: ModuleInfo) -> Callable[[Sandbox], Steps]:
        """What makes a sandbox's instance and runs what must run before its first call.

        Its steps raise GuestFault where the guest fails, or does not fit its limits.
        """
        ...


class RuntimeManager:
    """Finds runtimes by name or by looking at a module. Read-only once made."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._runtimes: dict[str, Runtime] = {}
        own = next((path for path in _own_folders() if path.is_dir()), None)
        for directory in ([own] if own else []) + [Path(each) for each in config.directories]:
            for folder in _runtime_folders(directory):
                self._add(*_load(folder), source=str(folder))
        for entry in entry_points(group="spear_wasm.runtimes"):
            self._add(entry.name, _loaded(entry.load, entry.value), source=entry.value)

    def _add(self, announced: str, runtime: object, source: str) -> None:
        if not isinstance(runtime, Runtime):
            raise ConfigurationError(f"{source}: its RUNTIME is not a runtime")
        if runtime.name != announced:
            raise ConfigurationError(
                f"{source}: it is announced as {announced!r}, but its RUNTIME is named {runtime.name!r}"
            )
        if runtime.name in self._runtimes:
            raise ConfigurationError(f"{source}: a runtime named {runtime.name!r} exists already")
        self._runtimes[runtime.name] = runtime

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all runtimes, sorted."""
        return tuple(sorted(self._runtimes))

    def find(self, artifact_type: str, module: ModuleInfo) -> Runtime:
        """The runtime that an artifact's type names, or that recognises the module where it names none.

        Raises:
            UnknownRuntime: no such runtime, or none recognises the module.
        """
        if artifact_type not in ANY_RUNTIME:
            named = self._runtimes.get(artifact_type)
            if named is None:
                raise UnknownRuntime(
                    f"there is no runtime {shown(artifact_type)}; this server has: {', '.join(self.names)}"
                )
            return named
        for runtime in self._runtimes.values():
            if runtime.recognises(module):
                return runtime
        raise UnknownRuntime("no runtime of this server recognises the module")


def missing_imports(module: ModuleInfo, provided: Mapping[tuple[str, str], HostFunction]) -> list[Import]:
    """The imports of a module that are not among the functions provided, or have another type."""
    return [
        needed
        for needed in module.imports
        if (offer := provided.get((needed.module, needed.name))) is None or offer.type != needed.function
    ]


def _own_folders() -> list[Path]:
    return [(Path(__file__).parent / folder).resolve() for folder in FOLDERS]


def _runtime_folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise ConfigurationError(f"the runtimes directory {directory} does not exist")
    return sorted(path.parent for path in directory.glob("*/runtime.toml"))


def _load(folder: Path) -> tuple[str, object]:
    """The name in a folder's runtime.toml, and the RUNTIME of its host file."""
    try:
        description = tomllib.loads((folder / "runtime.toml").read_text(encoding="utf-8"))
        name, path = str(description["name"]), folder / description["host"]
    except KeyError as error:
        raise ConfigurationError(f"{folder}/runtime.toml: it lacks {error}") from error
    except (OSError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{folder}/runtime.toml: {error}") from error
    spec = importlib.util.spec_from_file_location(f"spear_wasm._runtimes.{folder.name}.host", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, for one, look up what a module defines
    _loaded(partial(spec.loader.exec_module, module), str(path))
    return name, getattr(module, "RUNTIME", None)


def _loaded(load: Callable[[], object], source: str) -> object:
    try:
        return load()
    except Exception as error:
        raise ConfigurationError(f"{source} does not load: {type(error).__name__}: {error}") from error
