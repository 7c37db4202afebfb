"""Extism plug-ins over the socket: what they are given, what they answer, and how they end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes.extism.kernel import COMPANION
from spear_wasm.api import function_pb2
from spear_wasm.engine.text import wat_to_wasm
from spear_wasm.errors import InvalidRequest, PermissionDenied, UnlinkableArtifact
from spear_wasm.model import WASM_PAGE_BYTES
from tests.rpc.conftest import TIGHT
from tests.rpc.plugins import PLUGINS, config, message_of, numbers_of, words
from tests.rpc.serving import Server, code_of, context, limits, parameters, refused, value_of

FAR_OFFSETS = [2**16, 2**31, 2**32 - 8, 2**32, 2**32 + 2048, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight bounds that has all plug-ins, by the names of their files."""
    running = Server(tmp_path_factory.mktemp("server"), TIGHT)
    with contextlib.closing(running):
        for path in sorted(PLUGINS.glob("*.wasm")):
            running.upload(path.read_bytes(), path.stem, "1")
        yield running
        assert running.stop() == 0


def log_of(answer: function_pb2.InvokeFunctionResponse) -> list[str]:
    return answer.result.stderr.decode().splitlines()


# --- what plug-ins are given and give ------------------------------------------------------------------------------


def test_a_plug_in_in_assemblyscript_counts_configures_remembers_and_logs(server: Server) -> None:
    answer = server.call("vowels", "count_vowels", "Hello there, friend", spec=config(config={"vowels": "e"}))
    assert json.loads(value_of(answer)) == {"count": 4, "total": 4, "vowels": "e"}
    assert log_of(answer) == ["info: counted 4"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, 65_536, 1_000_000])
def test_bytes_of_any_length_come_back_as_they_went_in(server: Server, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    assert value_of(server.call("plugin", "echo", content[:size])) == content[:size]


@pytest.mark.parametrize(
    ("argument", "received"),
    [("text", b"text"), (b"\0\xff", b"\0\xff"), ({"a": [True, None]}, b'{"a":[true,null]}'), (3, b"3")],
)
def test_the_input_is_bytes_or_text_or_json(server: Server, argument: Any, received: bytes) -> None:
    assert value_of(server.call("plugin", "pass", argument)) == received


def test_without_a_parameter_the_input_is_empty(server: Server) -> None:
    assert value_of(server.call("plugin", "pass")) == b""


def test_more_than_one_parameter_is_the_callers_mistake(server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("plugin", "pass", "one", "two"))


def test_input_above_its_limit_is_the_callers_mistake(server: Server) -> None:
    refused(InvalidRequest, lambda: server.call("plugin", "pass", b"12345", limits=limits(max_input_bytes=4)))


def test_a_function_that_returns_nothing_answers_with_nothing(server: Server) -> None:
    assert value_of(server.call("plugin", "nothing")) == b""


def test_what_the_toolchain_wants_to_be_called_first_is_called_once(server: Server) -> None:
    assert numbers_of(server.call("plugin", "starts")) == (1,)


@pytest.mark.parametrize(
    ("exports", "order"),
    [
        (("_initialize",), b"i"),
        (("__wasm_call_ctors",), b"c"),
        (("_initialize", "__wasm_call_ctors"), b"c"),
        (("hs_init",), b"h"),
        (("hs_init", "_initialize"), b"ih"),
    ],
)
def test_each_toolchains_way_to_start_is_served(
    server: Server, exports: tuple[str, ...], order: bytes
) -> None:
    marks = {"_initialize": "i", "__wasm_call_ctors": "c", "hs_init": "h"}
    functions = "".join(
        f"""(func (export "{name}") {"(param i32 i32)" if name == "hs_init" else ""}
          (i32.store8 (global.get $next) (i32.const {ord(marks[name])}))
          (global.set $next (i32.add (global.get $next) (i32.const 1))))"""
        for name in exports
    )
    module = f"""(module
      (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
      (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
      (import "extism:host/env" "output_set" (func $output (param i64 i64)))
      (memory (export "memory") 1) (global $next (mut i32) (i32.const 0)) {functions}
      (func (export "marks") (result i32) (local $block i64)
        (local.set $block (call $alloc (i64.const 8)))
        (call $store (local.get $block) (i64.load (i32.const 0)))
        (call $output (local.get $block) (i64.extend_i32_u (global.get $next)))
        (i32.const 0)))"""
    name = "-".join(exports).strip("_")
    server.upload(wat_to_wasm(module), name)
    assert value_of(server.call(name, "marks")) == order
    assert [each.name for each in server.artifact(name).functions] == ["marks"]


def test_configuration_is_found_by_its_key(server: Server) -> None:
    spec = config(config={"greeting": "héllo", "empty": ""})
    assert value_of(server.call("plugin", "configured", "greeting", spec=spec)) == "héllo".encode()
    assert value_of(server.call("plugin", "configured", "other", spec=spec)) == b"(none)"
    assert value_of(server.call("plugin", "configured", "greeting")) == b"(none)"


def test_variables_are_set_found_and_removed(server: Server) -> None:
    assert numbers_of(server.call("plugin", "remember")) == (0, 1, 0)


def test_variables_end_with_their_execution(server: Server) -> None:
    assert [numbers_of(server.call("plugin", "visits")) for _ in range(3)] == [(1,)] * 3


def test_variables_last_as_long_as_a_sandbox_that_is_reused(server: Server) -> None:
    task = server.call("plugin", "starts", spec=config(reuse=True)).task_id
    counts = [numbers_of(server.invoke(task_id=task, function_name="visits", deadline=30)) for _ in range(3)]
    assert counts == [(1,), (2,), (3,)]


def test_a_sandbox_that_was_made_ready_is_called_like_a_fresh_one(server: Server) -> None:
    spec = config(ready_sandboxes=2, warm_up="nothing", config={"key": "value"})
    task = server.call("plugin", "configured", "key", spec=spec).task_id
    asked: dict[str, Any] = {"function_name": "configured", "parameters": parameters("key")}
    assert [value_of(server.invoke(task_id=task, **asked)) for _ in range(5)] == [b"value"] * 5
    assert numbers_of(server.invoke(task_id=task, function_name="starts")) == (1,)


def test_what_stands_beside_plug_ins_is_compiled_once_and_kept_over_restarts(tmp_path: Path) -> None:
    files = []
    for _ in range(2):
        with contextlib.closing(Server(tmp_path, TIGHT)) as server:
            server.upload((PLUGINS / "plugin.wasm").read_bytes(), "plugin", "1")
            for task in ("one", "another"):
                assert value_of(server.call("plugin", "pass", "text", task_name=task)) == b"text"
            kept = (server.data_dir / "code").glob(f"*/{COMPANION.digest}.cwasm")
            files.append([(path, path.stat().st_ino) for path in kept])
            assert server.stop() == 0
    assert len(files[0]) == 1
    assert files[0] == files[1]


def test_a_reused_sandbox_knows_nothing_of_an_earlier_output_or_input(server: Server) -> None:
    task = server.call("plugin", "pass", b"secret", spec=config(reuse=True)).task_id
    for function in ("nothing", "pass"):
        assert value_of(server.invoke(task_id=task, function_name=function)) == b""


def test_a_reused_sandbox_does_not_grow_with_its_calls(server: Server) -> None:
    task = server.call("plugin", "echo", bytes(100_000), spec=config(reuse=True)).task_id
    answers = [
        server.invoke(task_id=task, function_name="echo", parameters=parameters(bytes(100_000)))
        for _ in range(20)
    ]
    assert len({each.result.memory_used_bytes for each in answers}) == 1


@pytest.mark.parametrize(("asked", "level"), [(None, 2), ("trace", 0), ("error", 4)])
def test_messages_from_the_level_that_the_task_asks_for_are_in_the_log(
    server: Server, asked: str | None, level: int
) -> None:
    spec = config(log_level=asked) if asked else None
    answer = server.call("plugin", "tell", "something happened", spec=spec)
    names = ["trace", "debug", "info", "warn", "error"]
    assert log_of(answer) == [f"{name}: something happened" for name in names[level:]]
    assert numbers_of(answer) == (level,)


# --- how they end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("complain", "it does not like that"),
        ("complain_quietly", "it does not say so"),
        ("fail", "the plug-in returned 7"),
    ],
)
def test_an_error_of_the_plug_in_is_its_outcome(server: Server, function: str, message: str) -> None:
    assert message_of(server.call("plugin", function)) == message


def test_an_error_that_was_taken_back_is_none(server: Server) -> None:
    assert value_of(server.call("plugin", "complain_and_recover")) == b"fine"


def test_a_trap_is_told_with_what_the_plug_in_said_before_it(server: Server) -> None:
    answer = server.call("plugin", "complain_and_trap")
    assert code_of(answer) == "TRAP_UNREACHABLE"
    assert answer.result.error_message == "the guest executed `unreachable`: it broke"
    assert answer.result.trap_frames


def test_a_trap_has_its_code(server: Server) -> None:
    assert code_of(server.call("hostile", "trap")) == "TRAP_UNREACHABLE"


def test_an_error_of_assemblyscript_is_a_trap(server: Server) -> None:
    assert code_of(server.call("vowels", "overrun")) == "TRAP_UNREACHABLE"


@pytest.mark.parametrize("how", ["call", "task", "manifest"])
def test_an_endless_plug_in_is_ended_in_time(server: Server, how: str) -> None:
    ways: dict[str, dict[str, Any]] = {
        "call": {"context": context(timeout_ms=100)},
        "task": {"spec": {"max_execution_timeout_ms": 100}},
        "manifest": {"spec": config(timeout_ms=100)},
    }
    begun = time.monotonic()
    answer = server.call("hostile", "spin", **ways[how])
    assert (code_of(answer), answer.result.status) == ("TIMEOUT", function_pb2.EXECUTION_STATUS_TIMEOUT)
    assert 0.09 < time.monotonic() - begun < 5


def test_a_plug_in_is_fuelled_with_what_stands_beside_it(server: Server) -> None:
    answer = server.call("plugin", "echo", bytes(100_000), limits=limits(max_fuel=50_000))
    assert code_of(answer) == "OUT_OF_FUEL"
    assert answer.result.fuel_used == 50_000
    assert value_of(server.call("plugin", "echo", b"some", limits=limits(max_fuel=50_000))) == b"some"


@pytest.mark.parametrize("size", [1001, 100_000])
def test_an_output_above_the_limit_is_refused(server: Server, size: int) -> None:
    answer = server.call("hostile", "output_of", words(size), limits=limits(max_output_bytes=1000))
    assert code_of(answer) == "OUTPUT_LIMIT"
    assert (
        len(value_of(server.call("hostile", "output_of", words(1000), limits=limits(max_output_bytes=1000))))
        == 1000
    )


def test_a_log_above_its_limit_is_cut(server: Server) -> None:
    answer = server.call("hostile", "log_much", words(10_000, 1000), limits=limits(max_log_bytes=5000))
    assert len(answer.result.stderr) == 5000
    assert answer.result.output_truncated
    assert numbers_of(answer) == (WASM_PAGE_BYTES,)  # what was logged was freed


# --- memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_first", [0, 1])
def test_both_memories_together_stay_within_the_limit(server: Server, own_first: int) -> None:
    most = 40 * WASM_PAGE_BYTES
    answer = server.call(
        "hostile", "take_all", words(own_first, 0, 0, 0), limits=limits(max_memory_bytes=most)
    )
    blocks, pages, shared, own = numbers_of(answer)
    assert shared + own == answer.result.memory_used_bytes
    assert most - 2 * WASM_PAGE_BYTES <= shared + own <= most
    assert (pages, blocks > 30) == ((38, False) if own_first else (0, True))


def test_max_pages_of_the_manifest_bounds_both_together(server: Server) -> None:
    answer = server.call("hostile", "take_all", words(0, 0, 0, 0), spec=config(memory={"max_pages": 20}))
    _, _, shared, own = numbers_of(answer)
    assert 18 * WASM_PAGE_BYTES <= shared + own <= 20 * WASM_PAGE_BYTES


def test_a_plug_in_that_does_not_fit_with_what_stands_beside_it_is_not_started(server: Server) -> None:
    answer = server.call("plugin", "starts", limits=limits(max_memory_bytes=WASM_PAGE_BYTES))
    assert code_of(answer) == "MEMORY_LIMIT"
    fitting = server.call("plugin", "starts", limits=limits(max_memory_bytes=2 * WASM_PAGE_BYTES))
    assert fitting.result.memory_used_bytes == 2 * WASM_PAGE_BYTES


def test_input_for_which_there_is_no_memory_is_told(server: Server) -> None:
    answer = server.call(
        "plugin", "pass", bytes(100_000), limits=limits(max_memory_bytes=2 * WASM_PAGE_BYTES)
    )
    assert "no memory for 100000 bytes of input" in message_of(answer)


def test_configuration_for_which_there_is_no_memory_is_told(server: Server) -> None:
    spec = config(config={"key": "x" * 10_000})
    assert "no memory left for 10000 bytes" in message_of(
        server.call("hostile", "configure_for_ever", spec=spec)
    )


def test_ten_thousand_blocks_are_ten_thousand_blocks(server: Server) -> None:
    made, memory = numbers_of(server.call("hostile", "allocate_many", words(10_000, 100, 0)))
    assert made == 10_000
    assert memory < 10_000 * 200 * 2


def test_blocks_that_are_freed_are_used_again(server: Server) -> None:
    assert numbers_of(server.call("hostile", "allocate_many", words(10_000, 1000, 1))) == (
        10_000,
        WASM_PAGE_BYTES,
    )


@pytest.mark.parametrize("size", [0, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1])
def test_a_block_of_no_or_impossible_size_is_none(server: Server, size: int) -> None:
    assert numbers_of(server.call("hostile", "allocate", words(size))) == (0, 0, WASM_PAGE_BYTES)


def test_a_block_that_is_freed_twice_is_given_out_once(server: Server) -> None:
    assert numbers_of(server.call("hostile", "free_twice")) == (0, 0, 100, 100)


@pytest.mark.parametrize("offset", [0, 1, 1024, 1040, 1041, *FAR_OFFSETS])
def test_freeing_what_is_no_block_does_nothing(server: Server, offset: int) -> None:
    length, input_length = numbers_of(server.call("hostile", "free_at", words(offset)))
    # The first block, at 1040, is the input.
    assert (length, input_length) == (0, 0 if offset == 1040 else 8)


def test_what_was_handed_to_the_host_is_gone(server: Server) -> None:
    spec = config(config={"key": "value"})
    assert "where the plug-in has nothing" in message_of(server.call("hostile", "use_again", spec=spec))


@pytest.mark.parametrize("size", [3, 5, 1000])
def test_who_frees_what_was_handed_to_the_host_does_not_lose_what_was_given(
    server: Server, size: int
) -> None:
    spec = config(config={"key": "v" * size})
    assert numbers_of(server.call("hostile", "free_again", spec=spec)) == (size,)


def test_input_that_was_freed_is_empty(server: Server) -> None:
    assert numbers_of(server.call("hostile", "free_input", b"something")) == (0, 0, 0)


def test_a_memory_that_was_reset_is_empty(server: Server) -> None:
    assert numbers_of(server.call("hostile", "forget", b"something")) == (0, 0, 0)


@pytest.mark.parametrize("pattern", [0, 1, 2**64 - 1, 0x5EA1B10C5EA1B10C, 0x0000041000000410])
def test_a_plug_in_that_overwrites_all_it_can_reach_harms_itself_alone(server: Server, pattern: int) -> None:
    answer = server.call("hostile", "overwrite", words(pattern), context=context(timeout_ms=5000))
    if not answer.success:
        assert answer.result.error_code in {"TRAP_OUT_OF_BOUNDS", "GUEST_ERROR"}
    assert numbers_of(server.call("hostile", "allocate", words(10)))[1] == 10


# --- offsets that lead nowhere --------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 8, 1023, *FAR_OFFSETS])
def test_what_is_outside_of_the_memory_reads_as_nothing(server: Server, offset: int) -> None:
    assert numbers_of(server.call("hostile", "read_at", words(offset))) == (0, 0, 0, 0)


@pytest.mark.parametrize("offset", [0, 8, 1023, *FAR_OFFSETS])
def test_what_is_written_outside_of_the_memory_is_written_nowhere(server: Server, offset: int) -> None:
    assert numbers_of(server.call("hostile", "write_at", words(offset))) == (0, 0)


@pytest.mark.parametrize("index", [8, 9, *FAR_OFFSETS])
def test_there_is_no_input_behind_its_end(server: Server, index: int) -> None:
    assert numbers_of(server.call("hostile", "input_at", words(index))) == (0, 0)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 2**20), (2**16 - 1, 2), (2**32, 1), (2**63, 1), (1040, 2**20), (2**64 - 1, 8), (2**32 - 1, 1)],
)
def test_an_output_that_lies_nowhere_is_the_plug_ins_failure(
    server: Server, offset: int, length: int
) -> None:
    assert f"{length} bytes at {offset}" in message_of(
        server.call("hostile", "output_at", words(offset, length))
    )


@pytest.mark.parametrize("length", [2**20 + 1, 2**32, 2**63, 2**64 - 1])
def test_an_output_of_impossible_length_is_too_long(server: Server, length: int) -> None:
    assert code_of(server.call("hostile", "output_at", words(1040, length))) == "OUTPUT_LIMIT"


@pytest.mark.parametrize("offset", [1, 1041, *FAR_OFFSETS])
def test_an_error_that_is_no_block_is_none(server: Server, offset: int) -> None:
    assert value_of(server.call("hostile", "error_at", words(offset))) == b""


@pytest.mark.parametrize("function", ["config_at", "var_at", "set_var_at", "log_at"])
@pytest.mark.parametrize("offset", [1, 1041, 2**32 - 8, 2**63])
def test_what_the_host_is_to_read_must_be_a_block(server: Server, function: str, offset: int) -> None:
    numbers = words(offset & 0xFFFFFFFF or 1, 0)
    assert "where the plug-in has nothing" in message_of(server.call("hostile", function, numbers))


@pytest.mark.parametrize("value", [1, 2**32, 2**63])
def test_the_value_of_a_variable_must_be_a_block(server: Server, value: int) -> None:
    assert "where the plug-in has nothing" in message_of(
        server.call("hostile", "set_var_at", words(0, value))
    )


# --- bounds of variables --------------------------------------------------------------------------------


def test_variables_above_their_bound_are_the_plug_ins_failure(server: Server) -> None:
    assert value_of(server.call("hostile", "store_vars", words(100, 10_000))) == b""
    assert "the limit is 1048576" in message_of(server.call("hostile", "store_vars", words(110, 10_000)))


def test_many_small_variables_count_for_what_they_cost(server: Server) -> None:
    assert "variables would take" in message_of(server.call("hostile", "store_vars", words(100_000, 1)))


def test_a_variable_that_is_set_again_counts_once(server: Server) -> None:
    assert value_of(server.call("hostile", "store_var_again", words(1000, 500_000))) == b""


@pytest.mark.parametrize(("bound", "size"), [(1000, 1000), (0, 1)])
def test_a_task_may_bound_its_variables_tighter(server: Server, bound: int, size: int) -> None:
    spec = config(memory={"max_var_bytes": bound})
    assert f"the limit is {bound}" in message_of(
        server.call("hostile", "store_vars", words(1, size), spec=spec)
    )


# --- what tasks may ask for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"memory": 5}, "memory"),
        ({"memory": {"max_pages": -1}}, "memory.max_pages"),
        ({"memory": {"max_pages": 100_000}}, "memory.max_pages"),
        ({"memory": {"max_pages": 2000}}, "memory.max_pages"),
        ({"memory": {"max_var_bytes": 2**21}}, "memory.max_var_bytes"),
        ({"memory": {"max_http_response_bytes": 2**40}}, "memory.max_http_response_bytes"),
        ({"memory": {"max_cows": 1}}, "memory.max_cows"),
        ({"config": {"key": 5}}, "config"),
        ({"config": "text"}, "config"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ({"timeout_ms": "soon"}, "timeout_ms"),
        ({"allowed_hosts": "example.com"}, "allowed_hosts"),
        ({"allowed_hosts": ["http://example.com/"]}, "allowed_hosts"),
        ({"log_level": "loud"}, "log_level"),
        ({"alowed_hosts": []}, "alowed_hosts"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_their_key(
    server: Server, settings: dict[str, Any], key: str
) -> None:
    refusal = refused(InvalidRequest, lambda: server.call("plugin", "starts", spec=config(**settings)))
    assert refusal.metadata["key"] == key


@pytest.mark.parametrize("host", ["example.com", "*", "127.0.0.1:80"])
def test_a_host_that_the_operator_did_not_allow_is_refused(server: Server, host: str) -> None:
    refusal = refused(
        PermissionDenied, lambda: server.call("plugin", "starts", spec=config(allowed_hosts=[host]))
    )
    assert refusal.metadata["host"] == host


@pytest.mark.parametrize("where", ["task", "call"])
def test_a_plug_in_has_no_environment(server: Server, where: str) -> None:
    environment = {"NAME": "value"}
    ways: dict[str, dict[str, Any]] = {
        "task": {"spec": {"environment": environment}},
        "call": {"context": context(environment=environment)},
    }
    refused(InvalidRequest, lambda: server.call("plugin", "starts", **ways[where]))


def test_functions_of_a_users_own_host_are_refused_at_the_door(server: Server) -> None:
    module = """(module (import "extism:host/env" "alloc" (func (param i64) (result i64)))
      (import "extism:host/user" "hello" (func (param i64) (result i64)))
      (func (export "run") (result i32) (i32.const 0)))"""
    refusal = refused(UnlinkableArtifact, lambda: server.upload(wat_to_wasm(module), "own-host"))
    assert "extism:host/user" in refusal.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [("begin", "(func (param i64) (result i64))"), ("extism kernel memory", "(memory 1)")],
)
def test_what_is_between_us_and_the_kernel_is_not_offered(server: Server, name: str, kind: str) -> None:
    module = wat_to_wasm(f'(module (import "extism:host/env" "{name}" {kind}))')
    refused(UnlinkableArtifact, lambda: server.upload(module, "nosy"))


def test_an_import_of_another_type_is_refused_at_the_door(server: Server) -> None:
    module = '(module (import "extism:host/env" "alloc" (func (param i32) (result i32))))'
    refusal = refused(UnlinkableArtifact, lambda: server.upload(wat_to_wasm(module), "wrong"))
    assert "(i64) -> (i64)" in refusal.message


def test_an_artifact_shows_its_functions_as_bytes_in_and_bytes_out(server: Server) -> None:
    shown = {each.name: each for each in server.artifact("vowels").functions}
    assert set(shown) == {"count_vowels", "reverse", "overrun"}
    assert [field.type for field in shown["reverse"].params] == ["bytes"]
