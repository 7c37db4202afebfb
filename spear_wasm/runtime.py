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
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from spear_wasm.errors import ConfigurationError, InvalidRequest, UnknownRuntime, UnlinkableArtifact
from spear_wasm.values import shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from spear_wasm.component_world import ComponentWorld
    from spear_wasm.config import RuntimeConfig
    from spear_wasm.engine.companion import Companion
    from spear_wasm.engine.components.host_functions import ComponentImports
    from spear_wasm.engine.guest_sandbox import Steps
    from spear_wasm.engine.host_calls import HostFunction
    from spear_wasm.limits import Limits
    from spear_wasm.model import ModuleInfo, Parameter, Signature, TypedValue
    from spear_wasm.wishes import Wishes

GuestOf: TypeAlias = Any
"""A sandbox of the kind that the runtime's modules get: a Sandbox, or a ComponentSandbox."""
FOLDERS = ("_runtimes", "../runtimes")
"""Where our own runtimes are, seen from this file: in an installed package, and in a checkout."""
ANY_RUNTIME = frozenset({"", "wasm"})
"""Artifact types that mean: find the runtime from the module itself."""


class CallableFunction(Protocol):
    """One function of one artifact, bound once and called many times."""

    signature: Signature

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> object:
        """What `steps` needs, checked and converted; opaque to everyone else.

        `environment` is the call's own, on top of the task's.

        Raises:
            InvalidRequest: the parameters do not fit the signature, or are above max_input_bytes; an environment
                is given, and the runtime has none.
        """
        ...

    def steps(self, sandbox: GuestOf, arguments: object) -> Generator[None, None, tuple[TypedValue, ...]]:
        """Run the guest, one slice a step; returns its results.

        Raises:
            GuestExit: the guest ended with a status.
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

    def host_functions(self, module: ModuleInfo) -> Mapping[tuple[str, str], HostFunction] | ComponentImports:
        """The functions that the module imports, by module and name, or what a component imports.

        Raises:
            UnlinkableArtifact: it imports something that this runtime does not provide.
        """
        ...

    def signatures(self, module: ModuleInfo) -> Sequence[Signature]:
        """The functions that callers may call."""
        ...

    def settings(
        self, module: ModuleInfo, environment: Mapping[str, str], wishes: Wishes, allowed: RuntimeConfig
    ) -> object:
        """What a task gives its guests, for `bind` and `preparation`; opaque to everyone else.

        Asked for whenever a task is made or restored, so that it always is what its record says and what the
        operator allows today. `environment` is the task's; `wishes` has the runtime's own keys among others.

        Raises:
            InvalidRequest: something asked for makes no sense, or the runtime does not have it.
            PermissionDenied: the operator did not allow it.
        """
        ...

    def bind(self, module: ModuleInfo, function: str, settings: object) -> CallableFunction | None:
        """One of those functions, ready to call; None where there is none of that name.

        Raises:
            InvalidRequest: there is one that cannot be called like this, or there are several.
        """
        ...

    def preparation(self, module: ModuleInfo, settings: object) -> Callable[[GuestOf], Steps]:
        """What makes a sandbox's instance and runs what must run before its first call.

        Its steps raise GuestFault where the guest fails, or does not fit its limits.
        """
        ...


@runtime_checkable
class AccompaniedRuntime(Runtime, Protocol):
    """A runtime whose guests have a module of its own beside them, which provides what they import."""

    companion: Companion


@runtime_checkable
class ComponentRuntime(Runtime, Protocol):
    """A runtime whose guests are components. The others never get to see one."""

    world: ComponentWorld


@runtime_checkable
class TighteningSettings(Protocol):
    """What a runtime gives as settings where a task's runtime_config has limits, too."""

    def tightened(self, limits: Limits) -> Limits:
        """The limits that the task asked for otherwise, tightened by these.

        Raises:
            InvalidRequest: one would be widened.
        """
        ...


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


def refuse_environment(environment: Mapping[str, str], runtime: str, field: str) -> None:
    """For runtimes whose guests see no environment variables.

    Raises:
        InvalidRequest: there are some; `field` says where.
    """
    if environment:
        raise InvalidRequest(
            f"the {runtime} runtime gives its guests no environment variables; leave {field} empty"
        )


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
