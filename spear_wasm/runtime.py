"""Runtimes: the contracts between us and kinds of guests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from spear_wasm.errors import InvalidRequest

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


def refuse_environment(environment: Mapping[str, str], runtime: str, field: str) -> None:
    """For runtimes whose guests see no environment variables.

    Raises:
        InvalidRequest: there are some; `field` says where.
    """
    if environment:
        raise InvalidRequest(
            f"the {runtime} runtime gives its guests no environment variables; leave {field} empty"
        )
