"""Imports are resolved by module, name and type; what is missing is told, with what comes nearest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.engine.host_calls import HostFunction
from spear_wasm.errors import UnlinkableArtifact
from spear_wasm.host_interface import HostInterface
from spear_wasm.model import ExternKind, FunctionType, Import, ModuleInfo, ValueType

I32, I64 = ValueType.I32, ValueType.I64
NOTHING, ONE, TWO = FunctionType(), FunctionType((I32,)), FunctionType((I32, I32), (I64,))


def offer(name: str, kind: FunctionType, module: str = "spear") -> HostFunction:
    return HostFunction(module, name, kind, lambda *_: None)


READ, SHORT_READ, WRITE = offer("read", TWO), offer("read", ONE), offer("write", ONE)
INTERFACE = HostInterface("test", [READ, SHORT_READ, WRITE])


def importing(*functions: tuple[str, str, FunctionType]) -> ModuleInfo:
    return ModuleInfo(
        imports=tuple(
            Import(module, name, ExternKind.FUNCTION, str(kind), kind) for module, name, kind in functions
        )
    )


def refusal(module: ModuleInfo) -> UnlinkableArtifact:
    assert not INTERFACE.provides_all(module)
    with pytest.raises(UnlinkableArtifact) as caught:
        INTERFACE.needed_by(module)
    return caught.value


@pytest.mark.parametrize(("kind", "function"), [(TWO, READ), (ONE, SHORT_READ)])
def test_of_functions_with_one_name_a_module_gets_the_one_with_its_type(
    kind: FunctionType, function: HostFunction
) -> None:
    module = importing(("spear", "read", kind), ("spear", "read", kind))
    assert INTERFACE.provides_all(module)
    assert INTERFACE.needed_by(module) == {("spear", "read"): function}


def test_only_what_a_module_imports_is_needed() -> None:
    assert INTERFACE.needed_by(ModuleInfo()) == {}
    assert INTERFACE.needed_by(importing(("spear", "write", ONE))) == {("spear", "write"): WRITE}


def test_a_module_cannot_have_one_name_with_two_types() -> None:
    both = refusal(importing(("spear", "read", ONE), ("spear", "read", TWO)))
    assert both.metadata["missing"] == "1"
    assert "'spear'.'read' (i32, i32) -> (i64)" in both.message


def test_another_type_is_told_with_those_that_there_are() -> None:
    refused = refusal(importing(("spear", "read", NOTHING)))
    assert "'spear'.'read' () -> () (here it is (i32, i32) -> (i64) or (i32) -> ())" in refused.message


def test_a_name_that_is_nearly_ours_is_told_with_ours() -> None:
    refused = refusal(importing(("spear", "wrte", ONE), ("far", "away", ONE)))
    assert (
        "the test runtime does not provide: 'spear'.'wrte' (i32) -> () (did you mean spear.write"
        in refused.message
    )
    assert refused.message.endswith("'far'.'away' (i32) -> ()")
    assert refused.metadata["missing"] == "2"


def test_what_is_no_function_is_missing_though_its_name_is_ours() -> None:
    refusal(ModuleInfo(imports=(Import("spear", "read", ExternKind.MEMORY, "memory"),)))


def test_of_many_missing_imports_some_are_named() -> None:
    refused = refusal(importing(*(("env", f"f{number}", NOTHING) for number in range(9))))
    assert refused.metadata["missing"] == "9"
    assert "'f4'" in refused.message
    assert "'f5'" not in refused.message
    assert refused.message.endswith("; and 4 more")


@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from([NOTHING, ONE, TWO]))))
def test_whatever_is_imported_the_refusal_is_short_and_printable(
    functions: list[tuple[str, str, FunctionType]],
) -> None:
    module = importing(*functions)
    if not INTERFACE.provides_all(module):
        message = refusal(module).message
        assert len(message) < 2000
        assert message.replace("…", "").isascii()
        assert message.isprintable()
