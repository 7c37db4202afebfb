"""Every key of the configuration is in force: each is provoked here, or in a test that is named here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
import psutil
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.config import Config, Section
from spear_wasm.errors import CompileRefused, CompilerKilled, InvalidRequest, PermissionDenied
from tests.rpc.conftest import StartServer
from tests.rpc.deaf_caller import DeafCaller
from tests.rpc.modules import compile_bomb, unique_module
from tests.rpc.plugins import PLUGINS, message_of, words
from tests.rpc.serving import (
    PATIENCE,
    Server,
    code_of,
    compilations_of,
    fixture,
    parameters,
    refused,
    until,
    value_of,
)
from tests.workshop import wasm_of

TESTS = Path(__file__).parents[1]
HERE = "rpc/test_configured_bounds.py"
LIMITS = [
    "max_memory", "max_fuel", "max_cpu_time", "max_table_elements", "max_input", "max_output", "max_log",
    "max_wall_time",
]  # fmt: skip
TESTED_IN = {
    "rpc/test_access.py": ["server.tls_cert", "server.tls_key", "server.tls_client_ca", "server.token_file"],
    "rpc/test_admission.py": [
        "execution.max_running", "execution.max_pending", "execution.max_total_memory",
        "default_limits.max_concurrency",
    ],
    "rpc/test_artifacts.py": ["artifacts.max_artifacts", "artifacts.max_disk"],
    "rpc/test_batches.py": [
        f"batches.{key}" for key in ("max_inputs", "max_input", "max_output", "max_running", "max_batches")
    ],
    "rpc/test_call_streams.py": [
        "call_streams.max_calls", "call_streams.max_bytes", "call_streams.unread_for",
    ],
    "rpc/test_worker_lives.py": ["server.workers", "server.max_connection_age"],
    "rpc/test_durable.py": [
        "execution.max_records", "execution.max_stored", "execution.max_unfinished_bytes",
    ],
    "rpc/test_lifecycle.py": [
        "server.shutdown_grace", "server.closing_grace", "engine.sandboxes", "engine.tick",
        "runtimes.directories",
    ],
    "rpc/test_extism_http.py": [
        "runtimes.http_hosts", "runtimes.http_private_networks", "runtimes.max_http_requests",
        "runtimes.max_http_response",
    ],
    "rpc/test_extism_wasi.py": ["runtimes.readable_directories", "runtimes.writable_directories"],
    "rpc/test_limits.py": [
        *(f"{table}.{key}" for table in ("default_limits", "ceiling") for key in LIMITS),
        "ceiling.max_concurrency",
    ],
    "rpc/test_locations.py": [
        "fetch.directories", "fetch.hosts", "fetch.private_networks", "fetch.max_time", "fetch.max_redirects",
    ],
    "rpc/test_refusals.py": [
        "compile.max_cpu_time", "compile.max_functions", "compile.max_function_bytes",
        "artifacts.max_artifact", "artifacts.max_uploads", "artifacts.upload_idle_timeout",
        "execution.max_tasks",
    ],
    "rpc/test_retries.py": ["execution.first_backoff", "execution.longest_backoff"],
    "rpc/test_streams.py": ["execution.unread_for"],
    "rpc/test_tasks.py": ["compile.max_wall_time"],
    "execution/test_executor.py": ["execution.threads"],
    "pool/test_reuse.py": ["pool.scheduling"],
    "pool/test_scaling.py": ["pool.scaling", "pool.season"],
    "pool/test_pools.py": ["pool.upkeep"],
    "cli/test_commands.py": ["log.format"],
    HERE: [
        "server.max_connection_streams", "server.max_unread", "engine.wasm_stack",
        "compile.max_memory", "compile.max_concurrency",
        "execution.max_record_bytes", "execution.max_stored_bytes", "execution.stored_for",
        "execution.max_unread", "execution.max_unread_messages",
        "log.level", "runtimes.max_scratch", "runtimes.max_vars",
        "pool.max_ready_per_task", "pool.max_ready", "pool.max_uses", "pool.max_lifetime", "pool.max_idle",
    ],
}  # fmt: skip


def keys_of(section: type[Section]) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        yield field.name


def test_every_key_has_a_test_that_names_it() -> None:
    keys = {f"{table.name}.{key}" for table in msgspec.structs.fields(Config) for key in keys_of(table.type)}
    assert keys == {key for tested in TESTED_IN.values() for key in tested}
    for file, tested in TESTED_IN.items():
        source = (TESTS / file).read_text()
        assert [key for key in tested if key.partition(".")[2] not in source] == [], file


def configured(**runtime_config: Any) -> dict[str, Any]:
    return {"runtime_config": ParseDict(runtime_config, Struct())}


# --- [server], [engine] -----------------------------------------------------------------------------------


def test_a_connection_has_so_many_streams_and_further_calls_wait_for_one(start_server: StartServer) -> None:
    server = start_server("[server]\nmax_connection_streams = 2")
    server.upload(fixture("hostile"), "hostile")
    task = server.task("hostile")
    with grpc.insecure_channel(
        server.address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    ) as channel:
        other = function_pb2_grpc.FunctionServiceStub(channel)
        request = pb.InvokeFunctionRequest(task_id=task, function_name="spin")
        guests = [other.InvokeFunction.future(request) for _ in range(2)]
        server.wait_for_load(2)
        waiting = other.GetHealth.future(pb.GetHealthRequest())
        for _ in range(20):
            server.health()
        assert not waiting.done()
        guests[0].cancel()
        assert waiting.result(PATIENCE).healthy
        guests[1].cancel()


DEEP = """
(module (func $deep (export "deep") (param $n i32) (result i32)
  (if (result i32) (i32.eqz (local.get $n))
    (then (i32.const 0))
    (else (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1))))))))
"""


def test_a_guest_has_the_stack_that_is_configured(server: Server, start_server: StartServer) -> None:
    shallow = start_server('[engine]\nwasm_stack = "32KiB"')
    for each in (server, shallow):
        each.upload(wasm_of(DEEP), "deep", "1")
    assert value_of(server.call("deep", "deep", 4000)) == 4000
    assert code_of(shallow.call("deep", "deep", 4000)) == "TRAP_STACK_OVERFLOW"
    assert value_of(shallow.call("deep", "deep", 100)) == 100


def test_callers_who_leave_more_unread_than_configured_are_hung_up_on(start_server: StartServer) -> None:
    server = start_server('[server]\nmax_unread = "10KiB"')
    server.upload(fixture("text"), "text")
    task_id = server.call("text", "upper", b"a").task_id
    request = pb.InvokeFunctionRequest(
        task_id=task_id, function_name="upper", parameters=parameters(b"a" * 4000)
    )
    port = int(server.address.rpartition(":")[2])
    with contextlib.closing(DeafCaller(port)) as deaf:
        for _ in range(4):  # two find room
            deaf.call("/spearlet.FunctionService/InvokeFunction", request.SerializeToString())
        assert len({deaf.hung_up_on(), deaf.hung_up_on()}) == 2  # they have ended in whatever order
        assert value_of(server.call("text", "upper", b"a" * 4000)) == b"A" * 4000


# --- [compile] --------------------------------------------------------------------------------------------


def test_a_compilation_has_the_memory_that_is_configured(start_server: StartServer) -> None:
    server = start_server('[compile]\nmax_memory = "1MiB"')
    refusal = refused(CompileRefused, lambda: server.upload(fixture("calc"), "calc"))
    assert refusal.metadata == {"limit": "max_memory"}


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_compilations_run_at_once(at_once: int, start_server: StartServer) -> None:
    server = start_server(f"[compile]\nmax_concurrency = {at_once}")
    compilations = partial(compilations_of, psutil.Process(server.process.pid))
    long, short = compile_bomb(), unique_module("short")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(server.upload, long, "long")
        until(lambda: len(compilations()) == 1)
        (held,) = compilations()
        held.suspend()
        try:
            second = threads.submit(server.upload, short, "short", size_bytes=len(short))
            if at_once == 1:
                # All of its bytes are there, and there is nothing that it could wait for but its turn.
                until(lambda: short in [path.read_bytes() for path in server.uploads_in_progress()])
                for _ in range(50):
                    server.health()
                    assert compilations() == [held]
                held.kill()
            assert second.result(PATIENCE).created
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                held.kill()
        refused(CompilerKilled, first.result)


# --- [execution] ------------------------------------------------------------------------------------------


def was_kept(server: Server, execution_id: str) -> bool:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id)
    return server.functions.GetExecutionStatus(request, timeout=PATIENCE).found


def test_memory_remembers_results_of_so_many_bytes(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_record_bytes = "100KiB"')
    server.upload(fixture("text"), "text")
    made = [server.call("text", "big_output", "40000").execution_id for _ in range(4)]
    assert [was_kept(server, each) for each in made] == [False, False, True, True]


def stored(server: Server) -> str:
    """An execution whose result of 40,000 bytes the disk keeps, and not the memory."""
    answer = server.call("text", "big_output", "40000", execution_mode=pb.EXECUTION_MODE_ASYNC, wait=True)
    assert answer.success
    return answer.execution_id


def test_the_disk_keeps_results_of_so_many_bytes(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_records = 0\nmax_stored_bytes = "100KiB"')
    server.upload(fixture("text"), "text")
    made = [stored(server) for _ in range(4)]
    until(lambda: [was_kept(server, each) for each in made] == [False, False, True, True])


def test_the_disk_keeps_results_for_so_long(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_records = 0\nstored_for = "1s"')
    server.upload(fixture("text"), "text")
    made = stored(server)
    assert was_kept(server, made)
    until(lambda: not was_kept(server, made))


def streamed(functions: function_pb2_grpc.FunctionServiceStub, function: str, *arguments: int) -> Any:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="emitter"),
        function_name=function,
        parameters=parameters(*arguments),
    )
    return functions.StreamFunction(request, timeout=PATIENCE)


def test_no_message_on_its_way_is_larger_than_what_may_be_unread(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_unread = "100"')
    server.upload(fixture("emitter"), "emitter")
    *pieces, _ = streamed(server.functions, "emit_numbers", 1, 250)
    assert [len(BytesValue.FromString(piece.chunk_data.value).value) for piece in pieces] == [100, 100, 50]


def test_no_more_messages_than_configured_wait_to_be_read(start_server: StartServer) -> None:
    """Empty ones, which no bound on bytes holds up: their guest would come to its output limit by itself."""
    server = start_server("[execution]\nmax_unread_messages = 1\n[default_limits]\nmax_output = 20_000")
    server.upload(fixture("emitter"), "emitter")
    # Else the client takes in megabytes of each stream ahead of who reads it.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        unread = streamed(function_pb2_grpc.FunctionServiceStub(channel), "emit_nothing_forever")
        execution_id = next(unread).execution_id
        *_, final = streamed(server.functions, "emit_nothing_forever")
        assert final.result.error_code == "OUTPUT_LIMIT"
        request = pb.GetExecutionStatusRequest(execution_id=execution_id)
        status = server.functions.GetExecutionStatus(request, timeout=PATIENCE).result.status
        assert status == pb.EXECUTION_STATUS_RUNNING
        unread.cancel()


# --- [pool] -----------------------------------------------------------------------------------------------


def test_a_task_keeps_no_more_ready_than_is_configured(start_server: StartServer) -> None:
    server = start_server("[pool]\nmax_ready_per_task = 2")
    server.upload(fixture("initialize"), "initialize")
    refused(InvalidRequest, lambda: server.task("initialize", **configured(ready_sandboxes=3)))
    server.task("initialize", **configured(ready_sandboxes=2))
    until(lambda: instances(server) == 2)


def test_all_tasks_together_keep_no_more_ready_than_is_configured(start_server: StartServer) -> None:
    server = start_server("[pool]\nmax_ready = 3")
    server.upload(fixture("initialize"), "initialize")
    for _ in range(3):
        server.task("initialize", **configured(ready_sandboxes=2))
    until(lambda: instances(server) == 3)
    for _ in range(20):
        assert instances(server) <= 3


def instances(server: Server) -> int:
    return server.stats().function_service_stats.instance_count


@pytest.mark.parametrize(
    ("bound", "counted"),
    [("max_uses = 2", [8, 9, 8, 9]), ('max_lifetime = "1us"', [8] * 4), ('max_idle = "1us"', [8] * 4)],
)
def test_a_sandbox_is_not_used_again_beyond_what_is_configured(
    bound: str, counted: list[int], start_server: StartServer
) -> None:
    server = start_server(f"[pool]\n{bound}")
    server.upload(fixture("initialize"), "initialize")
    answers = [
        server.call("initialize", "bump", spec=configured(reuse=True), task_name="it") for _ in range(4)
    ]
    assert [value_of(answer) for answer in answers] == counted


# --- [runtimes] -------------------------------------------------------------------------------------------

FILLS_A_FILE = """
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "file")
  (data (i32.const 16) "\\00\\00\\01\\00\\00\\00\\01\\00")  ;; 64 KiB from 64 Ki on
  (func (export "_initialize"))
  (func (export "fill") (result i32) (local $written i32)
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 1)
                    (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 32))
      (then (return (i32.const -1))))
    (loop $again
      (if (i32.eqz (call $write (i32.load (i32.const 32)) (i32.const 16) (i32.const 1) (i32.const 40)))
        (then
          (local.set $written (i32.add (local.get $written) (i32.load (i32.const 40))))
          (br $again))))
    (local.get $written)))
"""


def test_a_scratch_directory_holds_no_more_than_is_configured(start_server: StartServer) -> None:
    server = start_server('[runtimes]\nmax_scratch = "256KiB"')
    server.upload(wasm_of(FILLS_A_FILE), "filler")
    too_much = configured(scratch=(256 << 10) + 1)
    refused(PermissionDenied, lambda: server.call("filler", "fill", spec=too_much))
    assert value_of(server.call("filler", "fill", spec=configured(scratch="256KiB"))) == 256 << 10


def test_a_plug_ins_variables_hold_no_more_than_is_configured(start_server: StartServer) -> None:
    server = start_server('[runtimes]\nmax_vars = "64KiB"')
    server.upload((PLUGINS / "hostile.wasm").read_bytes(), "hostile")
    too_much = configured(memory={"max_var_bytes": (64 << 10) + 1})
    refused(InvalidRequest, lambda: server.call("hostile", "store_vars", words(1, 1), spec=too_much))
    assert server.call("hostile", "store_vars", words(6, 10_000)).success
    assert "the limit is 65536" in message_of(server.call("hostile", "store_vars", words(7, 10_000)))


# --- [log] ------------------------------------------------------------------------------------------------


def test_what_is_less_urgent_than_configured_is_not_logged(start_server: StartServer) -> None:
    server = start_server('[log]\nlevel = "error"')
    server.upload(fixture("calc"), "calc")
    server.call("calc", "answer")
    assert server.stop() == 0
    assert server.log() == ""
