"""The door to wasmtime's C API, held against what the wheel itself declares."""

from __future__ import annotations

import _ctypes
import ctypes
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wasmtime import _bindings, _ffi

from spear_wasm.engine import capi
from spear_wasm.engine.host_calls import KIND_OF
from spear_wasm.model import ValueType
from tests.workshop import PLAIN

CType = Any  # ctypes' types have no common base

CALLS: list[CType] = [value for value in vars(capi).values() if isinstance(value, _ctypes.CFuncPtr)]
BOUND: dict[str, CType] = {call.__name__: call for call in CALLS}
"""Every function of the library that the door offers, by its C name."""
RETURNS_NOTHING = "wasmtime_context_epoch_deadline_async_yield_and_update"
"""The header, and so the wheel, says that it returns an error; the library returns nothing."""


def declared(name: str) -> CType:
    """The wheel's own declaration of a function."""
    return getattr(_bindings, f"_{name}")


def kind(c_type: CType) -> str:
    """What a type is to the calling convention: a pointer, a bool, an integer of some size or nothing."""
    if c_type is None:
        return "nothing"
    pointers = (ctypes._Pointer, _ctypes.CFuncPtr)
    if c_type in {ctypes.c_void_p, ctypes.c_char_p} or issubclass(c_type, pointers):
        return "pointer"
    if c_type is ctypes.c_bool:
        return "bool"
    assert issubclass(c_type, ctypes._SimpleCData)
    assert c_type not in {ctypes.c_float, ctypes.c_double}
    return f"{ctypes.sizeof(c_type)} bytes"


def kinds(function: CType) -> list[str]:
    return [kind(function.restype), *map(kind, function.argtypes or ())]


def test_the_pinned_version_is_the_one_that_the_project_depends_on() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"wasmtime=={capi.PINNED_VERSION}" in project["project"]["dependencies"]


def test_another_version_of_wasmtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{capi.PINNED_VERSION}.1")
    with pytest.raises(ImportError, match=capi.PINNED_VERSION):
        runpy.run_path(capi.__file__)


@pytest.mark.parametrize("name", sorted(BOUND))
def test_a_bound_function_has_the_signature_that_the_wheel_declares(name: str) -> None:
    ours, theirs = kinds(BOUND[name]), kinds(declared(name))
    if name == RETURNS_NOTHING:
        assert (ours.pop(0), theirs.pop(0)) == ("nothing", "pointer")
    assert len(ours) == len(theirs)
    assert all(map(is_passed_alike, ours, theirs))


def is_passed_alike(ours: str, theirs: str) -> bool:
    """Whether they are the same, or a number of 64 bits that we declare as a Word."""
    return ours == theirs or (ours, theirs) == (kind(capi.Word), "8 bytes")


def test_functions_that_run_guests_or_take_long_are_called_without_the_gil() -> None:
    released = {name for name, function in BOUND.items() if not function._flags_ & _ctypes.FUNCFLAG_PYTHONAPI}
    assert released >= {
        "wasmtime_call_future_poll",
        "wasmtime_module_new",
        "wasmtime_module_serialize",
        "wasmtime_module_deserialize_file",
        "wasm_engine_new_with_config",
    }


def test_the_guests_clock_calls_the_function_that_advances_an_epoch() -> None:
    theirs = ctypes.cast(_ffi.dll.wasmtime_engine_increment_epoch, ctypes.c_void_p)
    assert capi.address_of_increment_epoch() == theirs.value


def test_a_host_callback_has_the_signature_that_the_wheel_declares() -> None:
    ours: CType = capi.HostCallback
    theirs: CType = _bindings.wasmtime_func_callback_t
    assert kind(ours._restype_) == kind(theirs._restype_)
    assert list(map(kind, ours._argtypes_)) == list(map(kind, theirs._argtypes_))


CONTINUATION: CType = _bindings.wasmtime_async_continuation_t


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (capi.WaitingHostCallback, _bindings.wasmtime_func_async_callback_t),
        (capi.ContinuationCallback, _bindings.wasmtime_func_async_continuation_callback_t),
        (capi.Finalizer, CONTINUATION._fields_[2][1]),
    ],
)
def test_the_callbacks_of_a_call_that_waits_have_the_signatures_that_the_wheel_declares(
    ours: CType, theirs: CType
) -> None:
    assert kind(ours._restype_) == kind(theirs._restype_)
    assert list(map(kind, ours._argtypes_)) == list(map(kind, theirs._argtypes_))


def test_a_continuation_is_laid_out_as_the_wheel_declares_it() -> None:
    ours: CType = capi.Continuation
    assert ctypes.sizeof(ours) == ctypes.sizeof(CONTINUATION)
    assert [name for name, _ in ours._fields_] == [name for name, _ in CONTINUATION._fields_]
    for name, _ in ours._fields_:
        assert getattr(ours, name).offset == getattr(CONTINUATION, name).offset


VAL: CType = _bindings.wasmtime_val
EXTERN: CType = _bindings.wasmtime_extern


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (capi.VAL_SIZE, ctypes.sizeof(VAL)),
        (capi.VAL_OFFSET, VAL.of.offset),
        (0, VAL.kind.offset),
        (1, VAL.kind.size),
        (capi.EXTERN_SIZE, ctypes.sizeof(EXTERN)),
        (capi.EXTERN_OFFSET, EXTERN.of.offset),
        (0, EXTERN.kind.offset),
        (1, EXTERN.kind.size),
        (capi.INSTANCE_SIZE, ctypes.sizeof(_bindings.wasmtime_instance)),
        (capi.EXTERN_FUNC, _ffi.WASMTIME_EXTERN_FUNC.value),
        (capi.EXTERN_MEMORY, _ffi.WASMTIME_EXTERN_MEMORY.value),
        (capi.KIND_I32, _ffi.WASMTIME_I32.value),
        (capi.KIND_I64, _ffi.WASMTIME_I64.value),
        (capi.KIND_F32, _ffi.WASMTIME_F32.value),
        (capi.KIND_F64, _ffi.WASMTIME_F64.value),
        # Kinds of values and of the types in a signature are two enumerations, which we use as one.
        (capi.KIND_I32, _ffi.WASM_I32.value),
        (capi.KIND_I64, _ffi.WASM_I64.value),
        (capi.KIND_F32, _ffi.WASM_F32.value),
        (capi.KIND_F64, _ffi.WASM_F64.value),
    ],
)
def test_sizes_offsets_and_kinds_are_those_of_the_wheel(ours: int, theirs: object) -> None:
    assert ours == theirs


def test_numbers_begin_where_their_union_does() -> None:
    union: CType = _bindings.wasmtime_valunion
    fields = {ValueType.I32: 4, ValueType.I64: 8, ValueType.F32: 4, ValueType.F64: 8}
    assert set(KIND_OF) == set(fields)
    for name, size in fields.items():
        field = getattr(union, name)
        assert (field.offset, field.size) == (0, size)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (capi.ByteVec, _bindings.wasm_byte_vec_t),
        (capi.PointerVec, _bindings.wasm_frame_vec_t),
        (capi.PointerVec, _bindings.wasm_valtype_vec_t),
    ],
)
def test_vectors_are_laid_out_as_the_wheel_declares_them(ours: CType, theirs: CType) -> None:
    assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    for name, _ in ours._fields_:
        assert getattr(ours, name).offset == getattr(theirs, name).offset
    assert kind(dict(ours._fields_)["data"]) == kind(dict(theirs._fields_)["data"]) == "pointer"


def test_each_option_of_an_engine_is_set_with_the_type_that_the_wheel_declares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, CType] = {}
    quick: Callable[..., CType] = capi._quick

    def remember(name: str, *signature: CType) -> CType:
        asked[name] = function = quick(name, *signature)
        return function

    monkeypatch.setattr(capi, "_quick", remember)
    engine = PLAIN.new_engine()
    monkeypatch.undo()
    capi.engine_delete(engine)

    assert len(asked) > 25
    assert {name: kinds(function) for name, function in asked.items()} == {
        name: kinds(declared(name)) for name in asked
    }
