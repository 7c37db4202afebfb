"""Where runtimes are found, and which of them a module belongs to.

A runtime lives in a folder with a `runtime.toml` (its name, a description, its host file) and a Python file
that defines `RUNTIME`, a Runtime. Folders come with the package, from directories that the operator names, and
from the entry-point group `spear_wasm.runtimes` (an entry point is a RUNTIME object).
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from spear_wasm.errors import ConfigurationError, UnknownRuntime, UnlinkableArtifact
from spear_wasm.runtime import AccompaniedRuntime, ComponentRuntime, Runtime
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.config import RuntimeConfig
    from spear_wasm.model import ModuleInfo

FOLDERS = ("_runtimes", "../runtimes")
"""Where our own runtimes are, seen from this file: in an installed package, and in a checkout."""
ANY_RUNTIME = frozenset({"", "wasm"})
"""Artifact types that mean: find the runtime from the module itself."""


class RuntimeManager:
    """Finds runtimes by name or by looking at a module. Read-only once made."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
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

    @property
    def companions(self) -> frozenset[str]:
        """The digests of the modules that stand beside guests."""
        accompanied = (each for each in self._runtimes.values() if isinstance(each, AccompaniedRuntime))
        return frozenset(each.companion.digest for each in accompanied)

    def find(self, artifact_type: str, module: ModuleInfo) -> Runtime:
        """The runtime that an artifact's type names, or that recognises the module where it names none.

        Raises:
            UnknownRuntime: there is no such runtime.
            UnlinkableArtifact: none recognises the module.
        """
        if artifact_type not in ANY_RUNTIME:
            named = self._runtimes.get(artifact_type)
            if named is None:
                raise UnknownRuntime(
                    f"there is no runtime {shown(artifact_type)}; this server has: {', '.join(self.names)}"
                )
            if not _runs_kind_of(named, module):
                what = "components" if module.component else "core modules"
                raise UnlinkableArtifact(f"the {named.name} runtime does not run {what}")
            return named
        return self.recognise(module)

    def recognise(self, module: ModuleInfo) -> Runtime:
        """The first runtime, by name, whose guest the module is.

        Raises:
            UnlinkableArtifact: none; what is missing is told by the one that comes nearest.
        """
        refusals = []
        for _, runtime in sorted(self._runtimes.items()):
            if not _runs_kind_of(runtime, module):
                continue
            if runtime.recognises(module):
                return runtime
            try:
                runtime.host_functions(module)
            except UnlinkableArtifact as refusal:
                refusals.append(refusal)
        if refusals:
            raise min(refusals, key=_distance)
        raise UnlinkableArtifact(
            f"none of this server's runtimes runs it: {', '.join(self.names)}", missing=0
        )


def _runs_kind_of(runtime: Runtime, module: ModuleInfo) -> bool:
    return isinstance(runtime, ComponentRuntime) == (module.component is not None)


def _distance(refusal: UnlinkableArtifact) -> tuple[int, int]:
    return int(refusal.metadata.get("missing", 1)), -int(refusal.metadata.get("hints", 0))


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
    package = _package_of(folder)
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, for one, look up what a module defines
    _loaded(partial(spec.loader.exec_module, module), str(path))
    return name, getattr(module, "RUNTIME", None)


def _package_of(folder: Path) -> str:
    """A package for what is in a folder, so that its files can import each other: `from .other import thing`."""
    name = f"spear_wasm._runtimes.{folder.name}"
    for loaded in [each for each in sys.modules if each.startswith(f"{name}.")]:
        del sys.modules[loaded]  # of another folder of this name, or of an earlier host
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    return name


def _loaded(load: Callable[[], object], source: str) -> object:
    try:
        return load()
    except Exception as error:
        raise ConfigurationError(f"{source} does not load: {type(error).__name__}: {error}") from error
