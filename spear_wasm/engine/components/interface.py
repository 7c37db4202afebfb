"""What a compiled component imports and exports, asked from the library.

This runs in the process that compiles (`spear_wasm.engine.compile_child`), which ends soon: what the library hands out
is not given back. A type may be written in few bytes and be huge when it is written out; what is too long is refused.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from spear_wasm.engine import capi
from spear_wasm.engine.settings import MAX_CORE_INSTANCES, MAX_INSTANCES, MAX_TABLES, EngineSettings
from spear_wasm.errors import InvalidArtifact
from spear_wasm.model import (
    ComponentFunctionInfo,
    ExternKind,
    Import,
    ModuleInfo,
    ResourceImport,
)
from spear_wasm.wit.types import (
    EnumType,
    FlagsType,
    ListType,
    OptionType,
    Primitive,
    RecordType,
    ResourceType,
    ResultType,
    TupleType,
    VariantType,
    WitFunction,
    WitType,
)

MAX_INTERFACE_BYTES = 512 << 10
"""Of the names and the types, written out, of all that a component imports and exports. All of WASI takes an eighth."""

_PRIMITIVES = (
    Primitive.BOOL, Primitive.S8, Primitive.S16, Primitive.S32, Primitive.S64, Primitive.U8, Primitive.U16,
    Primitive.U32, Primitive.U64, Primitive.F32, Primitive.F64, Primitive.CHAR, Primitive.STRING,
)  # fmt: skip
"""By their wasmtime_component_valtype_kind_t."""
_LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS, _OWN, _BORROW = range(13, 23)
_BYTES_OF_A_FORM = 10
"""What a type of others takes besides them: `tuple<, >`."""
_LATER_TYPES = {23: "future", 24: "stream", 25: "error-context", 26: "map"}

_Bounds: TypeAlias = "dict[str, int]"
_ROOMY: _Bounds = {
    "max_core_instances_per_component": 1 << 20,
    "max_memories_per_component": 1 << 20,
    "max_tables_per_component": 1 << 20,
    "total_memories": 1,
    "total_tables": 10,
}
_COUNT = re.compile(r"contains (\d+) ")


def described(engine: int, component: int, info: ModuleInfo) -> ModuleInfo:
    """The component with what it imports and exports.

    Raises:
        InvalidArtifact: it imports or exports something that components here cannot have.
    """
    assert info.component is not None
    reader = _InterfaceReader(engine)
    try:
        imports, resources = reader.imports(component)
        functions, own = reader.exports(component)
    except UnicodeDecodeError:
        raise InvalidArtifact("the component has names that are not UTF-8") from None
    complete = replace(
        info.component, functions=tuple(functions), resources=tuple(resources), own_resources=tuple(own)
    )
    return replace(info, imports=tuple(imports), component=complete)


def counted(settings: EngineSettings, code: bytes, info: ModuleInfo) -> ModuleInfo:
    """The component with how many instances, memories and tables a sandbox of it has.

    The library tells nobody, but refuses code that needs more of something than its engine has, and then says how many.
    Components that need more than ours have are refused earlier, when they are compiled.
    """
    assert info.component is not None
    instances, memories, tables = (
        _count(settings, code, bound)
        for bound in (
            "max_core_instances_per_component",
            "max_memories_per_component",
            "max_tables_per_component",
        )
    )
    assert instances <= MAX_CORE_INSTANCES
    assert memories <= MAX_INSTANCES
    assert tables <= MAX_TABLES
    return replace(
        info, component=replace(info.component, instances=instances, memories=memories, tables=tables)
    )


def _count(settings: EngineSettings, code: bytes, bound: str) -> int:
    engine = settings.new_engine(**(_ROOMY | {bound: 0}))
    component = ctypes.c_void_p()
    try:
        error = capi.component_deserialize(engine, code, len(code), ctypes.addressof(component))
        if not error:
            capi.component_delete(component)
            return 0
        told = capi.take_error(error)
    finally:
        capi.engine_delete(engine)  # at once: there is not address space for many
    found = _COUNT.search(told)
    if found is None:
        raise InvalidArtifact(f"the component cannot be instantiated: {told}")
    return int(found[1])


@dataclass(frozen=True, slots=True)
class _Item:
    """Something imported or exported: its name, its kind, and where the library has its type."""

    name: str
    kind: int
    type: int


class _Names:
    """Where the library says a name, and then something else; read anew for each."""

    def __init__(self) -> None:
        self._address = ctypes.c_void_p()
        self._length = ctypes.c_size_t()
        self.outputs = ctypes.addressof(self._address), ctypes.addressof(self._length)

    def read(self) -> str:
        return ctypes.string_at(self._address.value or 0, self._length.value).decode()


class _ValueType:
    """Where the library says a type of values."""

    def __init__(self) -> None:
        self._place = ctypes.create_string_buffer(capi.VALTYPE_SIZE)
        self.output = ctypes.addressof(self._place)

    @property
    def kind(self) -> int:
        return self._place.raw[0]

    @property
    def type(self) -> int:
        return int.from_bytes(self._place.raw[capi.VAL_OFFSET :], "little")


class _InterfaceReader:
    """Reads types, as far as a bound lets them be written out; knows resources by the names that were said first."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._room = MAX_INTERFACE_BYTES
        self._resources: list[tuple[int, tuple[str, str]]] = []

    def imports(self, component: int) -> tuple[list[Import], list[ResourceImport]]:
        imports: list[Import] = []
        resources: list[ResourceImport] = []
        for interface, item in self._flat(component, capi.component_import_count, capi.component_import_nth):
            match item.kind:
                case capi.ITEM_FUNCTION:
                    imports.append(
                        Import(interface, item.name, ExternKind.FUNCTION, self._function(item.type))
                    )
                case capi.ITEM_RESOURCE:
                    origin = self._name_resource(item.type, (interface, item.name))
                    resources.append(ResourceImport(interface, item.name, origin))
                    imports.append(Import(interface, item.name, ExternKind.RESOURCE, "resource"))
                case capi.ITEM_TYPE:
                    pass  # a name for what functions write out
                case _:
                    imports.append(Import(interface, item.name, ExternKind.OTHER, "module or component"))
        return imports, resources

    def exports(self, component: int) -> tuple[list[ComponentFunctionInfo], list[str]]:
        items = list(self._flat(component, capi.component_export_count, capi.component_export_nth))
        imported = len(self._resources)
        for interface, item in items:
            if item.kind == capi.ITEM_RESOURCE:
                self._name_resource(item.type, (interface, item.name))
        functions = [
            ComponentFunctionInfo(interface, item.name, self._function(item.type))
            for interface, item in items
            if item.kind == capi.ITEM_FUNCTION
        ]
        return functions, sorted({name for _, (_, name) in self._resources[imported:]})

    def _flat(self, component: int, count: capi.Function, nth: capi.Function) -> Iterator[tuple[str, _Item]]:
        """What lies in interfaces, with the interface, and what lies in none."""
        for item in self._items(capi.component_type(component), count, nth):
            if item.kind == capi.ITEM_INSTANCE:
                for inner in self._items(item.type, capi.instance_export_count, capi.instance_export_nth):
                    yield item.name, inner
            else:
                yield "", item

    def _items(self, owner: int, count: capi.Function, nth: capi.Function) -> Iterator[_Item]:
        names, extern = _Names(), ctypes.c_void_p()
        content = ctypes.create_string_buffer(capi.ITEM_SIZE)
        for number in range(count(owner, self._engine)):
            nth(owner, self._engine, number, *names.outputs, ctypes.addressof(extern))
            capi.extern_type(extern, ctypes.addressof(content))
            address = int.from_bytes(content.raw[capi.VAL_OFFSET : capi.VAL_OFFSET + 8], "little")
            yield _Item(self._kept(names.read()), content.raw[0], address)

    def _name_resource(self, resource: int, name: tuple[str, str]) -> tuple[str, str]:
        known = self._resource_name(resource)
        if known is None:
            self._resources.append((resource, name))
        return known or name

    def _resource_name(self, resource: int) -> tuple[str, str] | None:
        return next(
            (name for known, name in self._resources if capi.resource_type_equal(known, resource)), None
        )

    def _kept(self, text: str) -> str:
        self._take_room(len(text))
        return text

    def _take_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise InvalidArtifact(
                f"the component's imports and exports take more than {MAX_INTERFACE_BYTES} bytes, written out"
            )

    def _function(self, function: int) -> str:
        if capi.func_is_async(function):
            raise InvalidArtifact("the component has asynchronous functions, which this server does not run")
        names, place = _Names(), _ValueType()
        params = []
        for number in range(capi.func_param_count(function)):
            capi.func_param_nth(function, number, *names.outputs, place.output)
            params.append((self._kept(names.read()), self._value(place)))
        result = self._value(place) if capi.func_result(function, place.output) else None
        return str(WitFunction(tuple(params), result))

    def _value(self, place: _ValueType) -> WitType:
        kind, address = place.kind, place.type
        if kind < len(_PRIMITIVES):
            self._take_room(len(_PRIMITIVES[kind]))
            return _PRIMITIVES[kind]
        if kind in _LATER_TYPES:
            raise InvalidArtifact(
                f"the component passes a {_LATER_TYPES[kind]}, which this server does not offer"
            )
        self._take_room(_BYTES_OF_A_FORM)
        return self._READERS[kind](self, address)

    def _part(self, part: Callable[[int, int], object], owner: int) -> WitType:
        place = _ValueType()
        part(owner, place.output)
        return self._value(place)

    def _list(self, address: int) -> ListType:
        return ListType(self._part(capi.list_element, address))

    def _option(self, address: int) -> OptionType:
        return OptionType(self._part(capi.option_some, address))

    def _tuple(self, address: int) -> TupleType:
        place = _ValueType()
        elements = []
        for number in range(capi.tuple_count(address)):
            capi.tuple_nth(address, number, place.output)
            elements.append(self._value(place))
        return TupleType(tuple(elements))

    def _record(self, address: int) -> RecordType:
        names, place = _Names(), _ValueType()
        fields = []
        for number in range(capi.record_field_count(address)):
            capi.record_field_nth(address, number, *names.outputs, place.output)
            fields.append((self._kept(names.read()), self._value(place)))
        return RecordType(tuple(fields))

    def _variant(self, address: int) -> VariantType:
        names, place, has_payload = _Names(), _ValueType(), ctypes.c_bool()
        cases = []
        for number in range(capi.variant_case_count(address)):
            capi.variant_case_nth(
                address, number, *names.outputs, ctypes.addressof(has_payload), place.output
            )
            cases.append((self._kept(names.read()), self._value(place) if has_payload.value else None))
        return VariantType(tuple(cases))

    def _names_of(self, address: int, count: capi.Function, nth: capi.Function) -> tuple[str, ...]:
        names = _Names()
        listed = []
        for number in range(count(address)):
            nth(address, number, *names.outputs)
            listed.append(self._kept(names.read()))
        return tuple(listed)

    def _enum(self, address: int) -> EnumType:
        return EnumType(self._names_of(address, capi.enum_name_count, capi.enum_name_nth))

    def _flags(self, address: int) -> FlagsType:
        return FlagsType(self._names_of(address, capi.flag_count, capi.flag_nth))

    def _result(self, address: int) -> ResultType:
        place = _ValueType()
        ok = self._value(place) if capi.result_ok(address, place.output) else None
        err = self._value(place) if capi.result_err(address, place.output) else None
        return ResultType(ok, err)

    def _own(self, address: int) -> ResourceType:
        return ResourceType(self._resource(address), owned=True)

    def _borrow(self, address: int) -> ResourceType:
        return ResourceType(self._resource(address), owned=False)

    def _resource(self, address: int) -> str:
        known = self._resource_name(address)
        if known is None:
            raise InvalidArtifact("the component passes a resource that it neither imports nor exports")
        return self._kept(known[1])

    _READERS: ClassVar[dict[int, Callable[[_InterfaceReader, int], WitType]]] = {
        _LIST: _list, _RECORD: _record, _TUPLE: _tuple, _VARIANT: _variant, _ENUM: _enum, _OPTION: _option,
        _RESULT: _result, _FLAGS: _flags, _OWN: _own, _BORROW: _borrow,
    }  # fmt: skip
