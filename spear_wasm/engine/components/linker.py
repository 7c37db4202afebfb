"""The way from a component to our functions and back."""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, cast

from spear_wasm.engine import capi
from spear_wasm.engine.components.layout import SIZE
from spear_wasm.engine.components.reading import Readers, Reading
from spear_wasm.engine.components.writing import Arena, Writers
from spear_wasm.engine.waiting_call import WaitingCall, caller_of, go_on, rest

if TYPE_CHECKING:
    from spear_wasm.engine.components.host_functions import (
        ComponentFunction,
        ComponentImports,
        ComponentResource,
    )
    from spear_wasm.engine.components.sandbox import ComponentSandbox
    from spear_wasm.engine.wait import Wait


class ComponentLinker:
    """Resolves a component's imports; owns what the library keeps pointers to.

    Must live as long as anything instantiated with it.
    """

    def __init__(self, engine: int, imports: ComponentImports) -> None:
        self.pointer = int(capi.component_linker_new(engine))
        self._readers, self._writers = Readers(imports.type_ids), Writers(imports.type_ids)
        self._callbacks: list[object] = []
        for interface in sorted({interface for interface, _ in (*imports.functions, *imports.resources)}):
            self._define(interface, imports)

    def close(self) -> None:
        """Give the library's part back."""
        capi.component_linker_delete(self.pointer)

    def _define(self, interface: str, imports: ComponentImports) -> None:
        place = int(capi.component_linker_root(self.pointer))
        root = place
        if interface:
            inner = ctypes.c_void_p()
            name = interface.encode()
            _check(capi.component_linker_add_instance(root, name, len(name), ctypes.addressof(inner)))
            assert inner.value is not None
            place = inner.value
        for (of, name_), resource in imports.resources.items():
            if of == interface:
                self._add_resource(place, name_, resource, imports.type_ids[resource.name])
        for (of, name_), function in imports.functions.items():
            if of == interface:
                self._add_function(place, name_, function)
        if place != root:
            capi.component_linker_instance_delete(place)
        capi.component_linker_instance_delete(root)

    def _add_resource(self, place: int, name: str, resource: ComponentResource, type_id: int) -> None:
        kind = capi.resource_type_new_host(type_id)
        destructor = _destructor(resource)
        self._callbacks.append(destructor)
        encoded = name.encode()
        error = capi.component_linker_add_resource(place, encoded, len(encoded), kind, destructor, None, None)
        capi.resource_type_delete(kind)
        _check(error)

    def _add_function(self, place: int, name: str, function: ComponentFunction) -> None:
        values = _Values(function, self._readers, self._writers)
        callback = _waiting_callback(function, values) if function.waits else _callback(function, values)
        self._callbacks.append(callback)
        add = capi.component_linker_add_async_func if function.waits else capi.component_linker_add_func
        encoded = name.encode()
        _check(add(place, encoded, len(encoded), callback, None, None))


def _check(error: int | None) -> None:
    if error:
        raise ValueError(capi.take_error(error))


class _Values:
    """A host function's arguments and its result."""

    def __init__(self, function: ComponentFunction, readers: Readers, writers: Writers) -> None:
        signature = function.signature
        self._read = [readers.of(kind) for _, kind in signature.params]
        self._write = None if signature.result is None else writers.of(signature.result)
        self._writers = writers  # has the names that what is written refers to

    def read(self, args: int, context: int) -> list[object]:
        """The arguments, which the library still owns."""
        block = ctypes.string_at(args, len(self._read) * SIZE) if self._read else b""
        reading = Reading(context)
        return [read(block, number * SIZE, reading) for number, read in enumerate(self._read)]

    def write(self, out: int, context: int, result: object) -> None:
        """The result, which the library will own: it gets a copy that it has made itself."""
        if self._write is None:
            if result is not None:
                raise TypeError("a host function returned something, and has no result")
            return
        arena = Arena(1, context)
        try:
            self._write(arena, 0, result)
            capi.component_val_clone(arena.settle(), out)
        finally:
            arena.release()


def _sandbox_of(context: int) -> ComponentSandbox:
    return cast("ComponentSandbox", caller_of(context))


def _error_for(sandbox: ComponentSandbox | None, error: BaseException) -> int:
    if sandbox is not None:
        sandbox.park(error)
    return int(capi.error_new(b"host function failed"))


def _error_at(place: int, sandbox: ComponentSandbox | None, error: BaseException) -> None:
    ctypes.c_void_p.from_address(place).value = _error_for(sandbox, error)


def _callback(function: ComponentFunction, values: _Values) -> object:
    implementation = function.implementation

    def trampoline(
        _env: int, context: int, _type: int, args: int, _count: int, out: int, _out_count: int
    ) -> int:
        sandbox = None
        try:
            sandbox = _sandbox_of(context)
            values.write(out, context, implementation(sandbox, *values.read(args, context)))
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            return _error_for(sandbox, error)
        return 0

    return capi.ComponentCallback(trampoline)


def _waiting_callback(function: ComponentFunction, values: _Values) -> object:
    implementation = function.implementation

    def trampoline(
        _env: int,
        context: int,
        _type: int,
        args: int,
        _count: int,
        out: int,
        _out_count: int,
        error_at: int,
        continuation: int,
    ) -> None:
        go_on(continuation)
        sandbox = None
        try:
            sandbox = _sandbox_of(context)
            steps = cast(
                "Generator[Wait, None, object]", implementation(sandbox, *values.read(args, context))
            )
            call = WaitingCall(
                steps, partial(values.write, out, context), partial(_error_at, error_at, sandbox)
            )
            if not call.proceed():
                rest(sandbox, call, context, continuation)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            _error_at(error_at, sandbox, error)

    return capi.WaitingComponentCallback(trampoline)


def _destructor(resource: ComponentResource) -> object:
    drop = resource.drop

    def trampoline(_env: int, context: int, rep: int) -> int:
        sandbox = None
        try:
            sandbox = _sandbox_of(context)
            drop(sandbox, rep)
        except BaseException as error:  # noqa: BLE001  nothing may be raised through the library
            return _error_for(sandbox, error)
        return 0

    return capi.ResourceDestructor(trampoline)
