"""What a runtime offers to components, and what to say to one that imports something else."""

from __future__ import annotations

from collections.abc import Iterable

from spear_wasm.engine.components.host_functions import ComponentFunction, ComponentImports, ComponentResource
from spear_wasm.missing_imports import MAX_NAMED, nearest, refusal
from spear_wasm.model import ExternKind, Import, ModuleInfo
from spear_wasm.values import shown

Path = tuple[str, str]
"""An interface and a name in it."""


class ComponentWorld:
    """The functions and resources that a runtime offers. Read-only once made.

    Guests import an interface with a version; whichever it is, they get what is here under the interface's name,
    where the types are theirs.
    """

    def __init__(
        self,
        runtime: str,
        functions: Iterable[ComponentFunction] = (),
        resources: Iterable[ComponentResource] = (),
    ) -> None:
        self._runtime = runtime
        self._functions: dict[Path, ComponentFunction] = {
            (each.interface, each.name): each for each in functions
        }
        self._resources: dict[Path, ComponentResource] = {}
        self._type_ids: dict[str, int] = {}
        for number, resource in enumerate(resources, 1):
            if resource.name in self._type_ids:
                raise ValueError(f"there are two resources named {resource.name}")
            self._resources[resource.interface, resource.name] = resource
            self._type_ids[resource.name] = number

    def provides_all(self, module: ModuleInfo) -> bool:
        """Whether the component imports nothing else."""
        return not self._resolved(module)[1]

    def needed_by(self, module: ModuleInfo) -> ComponentImports:
        """Those of the functions and resources that a component imports.

        Raises:
            UnlinkableArtifact: it imports something else, or with another type.
        """
        found, missing = self._resolved(module)
        if missing:
            raise refusal(
                "component",
                self._runtime,
                list(map(_shown, missing)),
                list(map(self._hint, missing[:MAX_NAMED])),
            )
        return found

    def _resolved(self, module: ModuleInfo) -> tuple[ComponentImports, list[Import]]:
        assert module.component is not None
        functions: dict[Path, ComponentFunction] = {}
        resources: dict[Path, ComponentResource] = {}
        missing = []
        origins = {(each.interface, each.name): each.origin for each in module.component.resources}
        for wanted in module.imports:
            path = wanted.module, wanted.name
            if wanted.kind is ExternKind.RESOURCE:
                resource = self._resources.get(_unversioned(origins[path]))
                if resource is not None:
                    resources[path] = resource
                    continue
            elif wanted.kind is ExternKind.FUNCTION:
                function = self._functions.get(_unversioned(path))
                if function is not None and str(function.signature) == wanted.type:
                    functions[path] = function
                    continue
            missing.append(wanted)
        return ComponentImports(functions, resources, self._type_ids), missing

    def _hint(self, wanted: Import) -> str:
        path = _unversioned((wanted.module, wanted.name))
        if path in self._functions:
            return f" (here it is {shown(str(self._functions[path].signature), 200)})"
        return nearest(path, (*self._functions, *self._resources), "#")


def _unversioned(path: Path) -> Path:
    return path[0].partition("@")[0], path[1]


def _shown(wanted: Import) -> str:
    return f"{shown(wanted.module)}#{shown(wanted.name)} {shown(wanted.type, 200)}"
