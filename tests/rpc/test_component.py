"""Components over the socket: what they are given, what they answer, and how they end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2
from spear_wasm.client.values import decode
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.errors import FunctionNotFound, InvalidArtifact, InvalidRequest, UnlinkableArtifact
from tests.components import CALC, SHAPES, text
from tests.rpc.conftest import TIGHT, StartServer
from tests.rpc.serving import PATIENCE, Server, code_of, context, fresh, limits, refused, until, value_of

STATEFUL = """(component
  (core module $guest
    (global $calls (mut i32) (i32.const 0))
    (func (export "count") (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (global.get $calls))
    (func (export "fail") unreachable))
  (core instance $i (instantiate $guest))
  (func (export "count") (result u32) (canon lift (core func $i "count")))
  (func (export "fail") (canon lift (core func $i "fail"))))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight bounds that has components."""
    running = Server(tmp_path_factory.mktemp("server"), TIGHT)
    with contextlib.closing(running):
        running.upload(CALC, "calc", "1")
        for name in ("hostile", "start_spin"):
            running.upload(wat_to_wasm(text(name)), name, "1")
        running.upload(wat_to_wasm(STATEFUL), "stateful", "1")
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        ("add", (1, 2), 3),
        ("total", ([2**31 - 1, 2**31 - 1],), 2**32 - 2),
        ("greet", ("Zoë",), "Hello, Zoë!"),
        ("divide", (-7, 2), -3),
        ("find", (["a", "b"], "b"), 1),
        ("find", (["a", "b"], "c"), None),
        ("reversed", (b"\0\1\xff",), b"\xff\1\0"),
        (f"{SHAPES}#area", ({"circle": 3},), 27),
        (f"{SHAPES}#area", ("nothing",), 0),
        ("lab:calc/shapes#move-by", ({"x": 1, "y": 2}, {"x": 10, "y": -20}), {"x": 11, "y": -18}),
        ("lab:calc/shapes#paint", ("blue", ["read", "write"]), ["blue", ["read", "write"]]),
        ("lab:calc/shapes#counter.up", ({"start": 5},), 6),
    ],
)
def test_a_call_answers_as_its_type_says(
    server: Server, function: str, arguments: tuple[Any, ...], result: Any
) -> None:
    assert value_of(server.call("calc", function, *arguments)) == result


def test_the_artifact_shows_its_functions_as_wit(server: Server) -> None:
    artifact = server.artifact("calc")
    assert artifact.runtime_type == "component"
    functions = {each.name: each for each in artifact.functions}
    area = functions[f"{SHAPES}#area"]
    assert [(each.name, each.type) for each in area.params] == [
        ("of", "variant { circle(u32), rectangle(record { x: s32, y: s32 }), nothing }")
    ]
    assert [each.type for each in area.results] == ["u32"]


def test_what_a_call_used_is_told(server: Server) -> None:
    result = server.call("calc", "total", list(range(1000)), limits=limits(max_fuel=1_000_000)).result
    assert 1000 < result.fuel_used < 100_000
    assert result.cpu_time_ms > 0
    assert result.memory_used_bytes == 0, "nobody can tell"


def test_an_error_of_the_guest_comes_with_its_value(server: Server) -> None:
    answer = server.call("calc", "divide", 1, 0)
    assert code_of(answer) == "GUEST_ERROR"
    assert answer.result.status == function_pb2.EXECUTION_STATUS_FAILED
    assert answer.result.error_message == "division by zero"
    assert decode(answer.result.result) == "division by zero"


def test_an_error_of_the_guest_may_be_as_long_as_a_result(server: Server) -> None:
    answer = server.call("hostile", "fail", 1_000_000, limits=limits(max_output_bytes=1_000_000))
    assert code_of(answer) == "GUEST_ERROR"
    assert len(answer.result.error_message) <= 1000
    assert decode(answer.result.result) == "\0" * 1_000_000


@pytest.mark.parametrize(
    ("function", "code"),
    [("unreachable", "TRAP_UNREACHABLE"), ("divide-by-zero", "TRAP_DIVIDE_BY_ZERO"), ("recurse", "TRAP_STACK_OVERFLOW"),
     ("out-of-bounds", "TRAP_OUT_OF_BOUNDS"), ("text-broken", "TRAP_OTHER")],
)  # fmt: skip
def test_a_trap_is_the_guests_failure(server: Server, function: str, code: str) -> None:
    assert code_of(server.call("hostile", function)) == code


@pytest.mark.parametrize(
    ("artifact", "function", "arguments"),
    [("calc", "spin", ()), ("hostile", "spin", ()), ("hostile", "spin-in-realloc", ("text",)),
     ("hostile", "spin-afterwards", ()), ("start_spin", "answer", ())],
)  # fmt: skip
def test_a_loop_ends_at_the_deadline_wherever_it_is(
    server: Server, artifact: str, function: str, arguments: tuple[Any, ...]
) -> None:
    answer = server.call(artifact, function, *arguments, context=context(timeout_ms=100))
    assert code_of(answer) == "TIMEOUT"
    assert answer.result.status == function_pb2.EXECUTION_STATUS_TIMEOUT
    assert 100 <= answer.result.execution_time_ms < PATIENCE * 1000


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"max_fuel": 10_000}, "OUT_OF_FUEL"), ({"max_cpu_time_ms": 20}, "CPU_TIME_EXCEEDED")],
)
def test_a_loop_ends_when_what_it_may_use_is_used_up(
    server: Server, asked: dict[str, int], code: str
) -> None:
    assert code_of(server.call("calc", "spin", limits=limits(**asked))) == code


def test_a_loop_ends_when_it_is_cancelled(server: Server) -> None:
    key = fresh("execution")
    pending = server.call_later("calc", "spin", execution_id=key)
    server.wait_for_load(1)
    server.functions.CancelExecution(function_pb2.CancelExecutionRequest(execution_id=key), timeout=PATIENCE)
    assert code_of(pending.answer()) == "CANCELLED"


def test_memory_and_tables_grow_to_their_limits(server: Server) -> None:
    spec = {"resource_limits": limits(max_memory_bytes=3 << 16, max_table_elements=1000)}
    assert value_of(server.call("hostile", "grow", spec=spec)) == 3
    assert value_of(server.call("hostile", "grow-table", spec=spec)) == 404


def test_a_component_that_needs_more_memory_than_its_limit_is_not_started(server: Server) -> None:
    spec = {"resource_limits": limits(max_memory_bytes=1000)}
    assert code_of(server.call("calc", "add", 1, 2, spec=spec)) == "MEMORY_LIMIT"


@pytest.mark.parametrize(
    ("artifact", "function", "arguments"),
    [
        ("calc", "zeros", (2 << 20,)),
        ("calc", "greet", ("x" * 1_000_000,)),
        ("hostile", "zeros", (3_000_000,)),
    ],
)
def test_a_result_that_is_too_long_is_the_guests_failure(
    server: Server, artifact: str, function: str, arguments: tuple[Any, ...]
) -> None:
    asked = limits(max_output_bytes=1_000_000)
    assert code_of(server.call(artifact, function, *arguments, limits=asked)) == "OUTPUT_LIMIT"


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [("find", (["a", "b", "c", 3], "b"), "find.texts[3]: must be a text, not 3"), ("add", (1,), "takes 2 parameters"),
     ("lab:calc/shapes#paint", ("pink", []), "paint.color: must be one of red, green, blue"),
     ("lab:calc/shapes#counter.same", ({"start": 1},), "cannot leave its sandbox")],
)  # fmt: skip
def test_a_value_of_another_type_is_the_callers_mistake(
    server: Server, function: str, arguments: tuple[Any, ...], message: str
) -> None:
    refusal = refused(InvalidRequest, lambda: server.call("calc", function, *arguments))
    assert message in refusal.message


def test_a_function_that_is_not_there_is_told_with_those_that_are(server: Server) -> None:
    assert "add" in refused(FunctionNotFound, lambda: server.call("calc", "sub", 1, 2)).message


# --- at the door ------------------------------------------------------------------------------------------


def test_an_import_that_nobody_provides_is_refused_when_it_is_uploaded(server: Server) -> None:
    wanting = wat_to_wasm(
        '(component (import "lab:none/such@1.0.0" (instance (export "f" (func (result u8))))))'
    )
    refusal = refused(UnlinkableArtifact, lambda: server.upload(wanting, fresh("artifact")))
    assert "'lab:none/such@1.0.0'#'f' 'func() -> u8'" in refusal.message


def test_a_component_of_too_many_instances_is_refused_when_it_is_uploaded(server: Server) -> None:
    many = wat_to_wasm(f"(component (core module $m) {'(core instance (instantiate $m))' * 101})")
    assert "101" in refused(InvalidArtifact, lambda: server.upload(many, fresh("artifact"))).message


@pytest.mark.parametrize("runtime", ["core", "wasi_command"])
def test_a_runtime_for_modules_does_not_run_components(server: Server, runtime: str) -> None:
    spec = {"artifact_type": runtime}
    assert (
        "components"
        in refused(UnlinkableArtifact, lambda: server.call("calc", "add", 1, 2, spec=spec)).message
    )


# --- keys, batches and pools ------------------------------------------------------------------------------


def test_an_outcome_with_structure_is_kept_with_its_key(server: Server) -> None:
    key = fresh("execution")
    for _ in range(2):
        answer = server.call("calc", "lab:calc/shapes#paint", "red", [], execution_id=key)
        assert value_of(answer) == ["red", []]


def test_an_asynchronous_call_has_its_outcome_on_disk(server: Server) -> None:
    answer = server.call("calc", "divide", 1, 0, execution_mode=function_pb2.EXECUTION_MODE_ASYNC)
    request = function_pb2.GetExecutionStatusRequest(execution_id=answer.execution_id, include_result=True)

    def result() -> function_pb2.ExecutionResult:
        return server.functions.GetExecutionStatus(request, timeout=PATIENCE).result

    until(lambda: result().status == function_pb2.EXECUTION_STATUS_FAILED)
    assert decode(result().result) == "division by zero"


def test_each_call_has_a_sandbox_of_its_own(server: Server) -> None:
    assert [value_of(server.call("stateful", "count")) for _ in range(3)] == [1, 1, 1]


def test_a_reused_sandbox_keeps_its_state_until_it_fails(server: Server) -> None:
    spec = {"runtime_config": {"reuse": True}}
    task = server.call("stateful", "count", spec=spec).task_id
    assert value_of(server.invoke(task_id=task, function_name="count")) == 2
    assert code_of(server.invoke(task_id=task, function_name="fail")) == "TRAP_UNREACHABLE"
    assert value_of(server.invoke(task_id=task, function_name="count")) == 1


def test_sandboxes_wait_ready_for_calls(server: Server) -> None:
    spec = {"runtime_config": {"ready_sandboxes": 2, "warm_up": "count"}}
    task = server.call("stateful", "count", spec=spec).task_id
    until(lambda: server.stats().function_service_stats.instance_count >= 2)
    assert value_of(server.invoke(task_id=task, function_name="count")) == 2, "the warm-up was first"


def test_many_at_once_are_all_answered(server: Server) -> None:
    numbers = list(range(32))
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = value_of(server.call("calc", "lab:calc/shapes#area", {"circle": number}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in numbers]
    for number in range(0, len(threads), 8):
        group = threads[number : number + 8]
        for thread in group:
            thread.start()
        for thread in group:
            thread.join(PATIENCE)
    assert answers == {number: 3 * number * number for number in numbers}


# --- a runtime of one's own -------------------------------------------------------------------------------

DICE = """
from spear_wasm.component_functions import bind, callable_functions
from spear_wasm.component_world import ComponentWorld
from spear_wasm.engine.components.host_functions import ComponentFunction
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.wait import turn_of_others
from spear_wasm.runtime import refuse_environment


def throw(sandbox, sides):
    sandbox.log(f"{sides}\\n".encode())
    yield turn_of_others()
    return {"shows": sides, "sides": sides}


class Dice:
    name = "dice"
    world = ComponentWorld(
        name,
        [
            ComponentFunction(
                "lab:host/dice", "throw", "func(sides: u32) -> record { shows: u32, sides: u32 }", throw, waits=True
            )
        ],
    )

    def recognises(self, module):
        return self.world.provides_all(module)

    def host_functions(self, module):
        return self.world.needed_by(module)

    def signatures(self, module):
        return [each.signature for each in callable_functions(module.component)]

    def settings(self, module, environment, wishes, allowed):
        refuse_environment(environment, "dice", "artifact_spec.environment")

    def bind(self, module, function, settings):
        return bind(module.component, function)

    def preparation(self, module, settings):
        return ComponentSandbox.instantiate


RUNTIME = Dice()
"""
PLAYER = """(component
  (import "lab:host/dice@2.0.0" (instance $dice
    (type $r (record (field "shows" u32) (field "sides" u32)))
    (export "thrown" (type $thrown (eq $r)))
    (export "throw" (func (param "sides" u32) (result $thrown)))))
  (alias export $dice "throw" (func $throw))
  (core module $memory (memory (export "memory") 1))
  (core instance $m (instantiate $memory))
  (core func $throw_ (canon lower (func $throw) (memory (core memory $m "memory"))))
  (core module $guest
    (import "host" "throw" (func $throw (param i32 i32)))
    (import "host" "memory" (memory 1))
    (func (export "play") (param i32) (result i32)
      (call $throw (local.get 0) (i32.const 16))
      (i32.add (i32.load (i32.const 16)) (i32.load (i32.const 20)))))
  (core instance $g (instantiate $guest (with "host" (instance
    (export "throw" (func $throw_)) (export "memory" (memory $m "memory"))))))
  (func (export "play") (param "sides" u32) (result u32) (canon lift (core func $g "play"))))"""


def test_a_runtime_of_ones_own_offers_components_what_it_likes(
    start_server: StartServer, tmp_path: Path
) -> None:
    folder = tmp_path / "more" / "dice"
    folder.mkdir(parents=True)
    (folder / "runtime.toml").write_text('name = "dice"\nhost = "host.py"\n', encoding="utf-8")
    (folder / "host.py").write_text(DICE, encoding="utf-8")
    server = start_server(f'[runtimes]\ndirectories = ["{tmp_path / "more"}"]')
    server.upload(wat_to_wasm(PLAYER), "player")
    assert server.artifact("player").runtime_type == "dice"
    answer = server.call("player", "play", 6)
    assert (value_of(answer), answer.result.stderr) == (12, b"6\n")
