"""Workers that die, are replaced and stop, while others go on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import CompilerKilled, WorkerSilent
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key
from tests.rpc.many_workers import RETRYING, WorkersServer, WorkerView, running_workers
from tests.rpc.modules import compile_bomb, unique_module
from tests.rpc.serving import (
    PATIENCE,
    Pending,
    Server,
    code_of,
    compilations_of,
    context,
    fresh,
    launch,
    limits,
    no_outcomes,
    parameters,
    read_refusal,
    refused,
    until,
    value_of,
    wait_for_attempt,
)
from tests.rpc.test_durable import ASYNC, CANCELLED, COMPLETED, PENDING, RUNNING, outcome, submit
from tests.rpc.test_executions import cancel, ids, listed, status_of, wait_for

FAILED = pb.EXECUTION_STATUS_FAILED
ONE_EACH = '[execution]\nmax_running = 2\nfirst_backoff = "1ms"\nlongest_backoff = "1ms"'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorkersServer]:
    with running_workers(tmp_path / "server", ONE_EACH) as server:
        yield server


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[WorkersServer]:
    """A server whose connections do not stay where they are for long: `max_connection_age` is a second."""
    with running_workers(tmp_path / "server", ONE_EACH, age="1s") as server:
        yield server


def spinning_on(worker: WorkerView, **fields: Any) -> str:
    """A guest that takes all the room of a worker."""
    execution_id = submit(worker, "hostile", "spin", **fields).execution_id
    wait_for_attempt(worker, execution_id)
    return execution_id


@contextlib.contextmanager
def under_load(call: Callable[[], object], threads: int = 3) -> Iterator[list[int]]:
    """Meanwhile calls are made without a pause; how many have been, in the end. One that fails fails the test."""
    done, made = threading.Event(), [0]

    def call_on() -> int:
        count = 0
        while not done.is_set():
            call()
            count += 1
            made[0] += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        callers = [pool.submit(call_on) for _ in range(threads)]
        try:
            until(lambda: made[0] > 10)
            yield made
        finally:
            done.set()
        assert sum(caller.result(PATIENCE) for caller in callers) == made[0] or threads > 1


# --- a worker that dies -----------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_the_others_notice_nothing(server: WorkersServer) -> None:
    doomed, other = server.views()
    with under_load(lambda: value_of(other.call("calc", "divide", 84, 2))):
        server.kill(doomed.number)
        server.wait_for_successor(doomed.number)
        until(lambda: len(server.views()) == 2)
    assert sorted(server.pids()) == [other.number, doomed.number + 2]
    assert all(value_of(view.call("calc", "divide", 84, 2)) == 42 for view in server.views())


def test_what_ran_on_a_killed_worker_is_settled_by_the_retry_rules(server: WorkersServer) -> None:
    doomed, other = server.views()
    on_other = spinning_on(other)
    lost = spinning_on(doomed)
    waiting = submit(doomed, "calc", "divide", 84, 2).execution_id
    assert status_of(other, waiting).result.status == PENDING
    server.kill(doomed.number)
    result = outcome(other, lost)
    assert (result.status, result.error_code) == (FAILED, "WORKER_LOST")
    cancel(other, on_other)
    assert outcome(other, waiting).status == COMPLETED
    assert outcome(other, on_other).metrics["attempts"] == ""
    assert ids(listed(other)) == [on_other, lost, waiting]


def test_what_the_disk_does_not_let_be_taken_over_is_when_it_does(server: WorkersServer) -> None:
    doomed, other = server.views()
    lost = spinning_on(doomed)
    with no_outcomes(server):
        server.kill(doomed.number)
        until(lambda: "executions not taken over" in server.log())
    assert outcome(other, lost).error_code == "WORKER_LOST"


def test_what_may_begin_again_does_so_on_another_worker(server: WorkersServer) -> None:
    doomed, other = server.views()
    running = spinning_on(doomed, context=context(max_retries=1))
    server.kill(doomed.number)
    until(lambda: status_of(other, running).result.metrics["attempts"] == "2")
    wait_for(other, running, RUNNING)
    assert cancel(other, running).final_status == CANCELLED


def test_who_waits_on_another_worker_gets_the_outcome_of_what_is_begun_again(server: WorkersServer) -> None:
    doomed, other = server.views()
    key = fresh("key")
    fields = {"execution_id": key, "execution_mode": ASYNC, "context": context(max_retries=1)}
    first = doomed.call_later("hostile", "spin", wait=True, **fields)
    wait_for(other, key, RUNNING)
    wait_for_attempt(other, key)
    second = other.call_later("hostile", "spin", wait=True, **fields)
    until(lambda: other.is_serving("") and not second.is_answered())
    server.kill(doomed.number)
    with pytest.raises(grpc.RpcError) as broken_off:
        first.answer()
    assert broken_off.value.code() is grpc.StatusCode.UNAVAILABLE
    until(lambda: status_of(other, key).result.metrics["attempts"] == "2")
    cancel(other, key)
    assert code_of(second.answer()) == "CANCELLED"


def test_what_a_killed_worker_was_about_to_store_does_not_stay(server: WorkersServer) -> None:
    from spear_wasm.api import artifact_pb2  # noqa: PLC0415

    doomed, other = server.views()
    goes_on = threading.Event()

    def parts() -> Iterator[artifact_pb2.UploadArtifactRequest]:
        yield artifact_pb2.UploadArtifactRequest(header=artifact_pb2.UploadArtifactHeader(name="half"))
        yield artifact_pb2.UploadArtifactRequest(chunk=b"\0asm")
        goes_on.wait(PATIENCE)

    uploading = doomed.artifacts.UploadArtifact.future(parts())
    until(lambda: bool(server.uploads_in_progress()))
    server.kill(doomed.number)
    until(lambda: not server.uploads_in_progress())
    goes_on.set()
    with pytest.raises(grpc.RpcError):
        uploading.result(PATIENCE)
    assert other.call("calc", "answer").success


def test_a_worker_that_hangs_is_reported_and_not_waited_for(server: WorkersServer) -> None:
    hanging, other = server.views()
    pid = server.pids()[hanging.number]
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = other.health()
        assert answer.status == "degraded"
        assert f"worker {hanging.number} does not answer" in answer.message
        assert answer.details.system_info[f"worker.{hanging.number}"] == "does not answer"
        assert value_of(other.call("calc", "answer")) == 42
        refused(WorkerSilent, lambda: listed(other))
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: other.health().healthy)


def test_workers_compile_no_more_at_once_than_the_server_may(server: WorkersServer) -> None:
    one, other = server.views()
    supervisor = psutil.Process(server.process.pid)

    def compilations() -> list[psutil.Process]:
        return [each for worker in supervisor.children() for each in compilations_of(worker)]

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(one.upload, compile_bomb(), "long")
        until(lambda: len(compilations()) == 1)
        (held,) = compilations()
        held.suspend()
        short = unique_module("short")
        second = threads.submit(other.upload, short, "short", size_bytes=len(short))
        until(lambda: short in [path.read_bytes() for path in server.uploads_in_progress()])
        for _ in range(10):
            other.health()
            assert compilations() == [held]
        held.kill()
        assert second.result(PATIENCE).created
        refused(CompilerKilled, first.result)


def test_what_one_worker_has_compiled_all_map(server: WorkersServer) -> None:
    for view in server.views():
        assert value_of(view.call("calc", "answer", spec={"description": "mine"})) == 42
    (code,) = {
        mapped.path
        for pid in server.pids().values()
        for mapped in psutil.Process(pid).memory_maps()
        if mapped.path.endswith(".cwasm")
    }
    assert code.startswith(str(server.data_dir))


def test_workers_leave_no_descriptors_behind(server: WorkersServer) -> None:
    supervisor = psutil.Process(server.process.pid)

    def kill_one() -> int:
        number = min(server.pids())
        server.kill(number)
        server.wait_for_successor(number)
        return supervisor.num_fds()

    before = kill_one()
    assert supervisor.num_threads() == 1, "else it could not fork"
    assert [kill_one() for _ in range(3)] == [before] * 3
    fds = {pid: psutil.Process(pid).num_fds() for pid in server.pids().values()}
    assert max(fds.values()) - min(fds.values()) <= 8, "later ones inherit no more than the first ones"


# --- replacing all ----------------------------------------------------------------------------------------


def test_replacing_all_workers_fails_no_call_of_a_client_that_retries(moving: WorkersServer) -> None:
    channels = [
        grpc.insecure_channel(
            moving.address,
            options=[
                ("grpc.service_config", RETRYING), ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        for _ in range(4)
    ]  # fmt: skip
    stubs = [function_pb2_grpc.FunctionServiceStub(channel) for channel in channels]
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="calc"),
        function_name="divide",
        parameters=parameters(84, 2),
    )
    turn = iter(range(10**9))

    def call() -> None:
        stub = stubs[next(turn) % len(stubs)]
        assert value_of(stub.InvokeFunction(request, timeout=PATIENCE)) == 42

    try:
        with under_load(call, threads=4) as made:
            for _ in range(2):
                moving.replace_all()
            after = made[0]
            until(lambda: made[0] > after + 20)
    finally:
        for channel in channels:
            channel.close()


def test_connections_come_to_other_workers_in_time(moving: WorkersServer) -> None:
    view = moving.views()[0]
    until(lambda: int(view.health().details.system_info["worker"]) != view.number)
    assert len(moving.pids()) == 2


def test_a_worker_that_retires_finishes_what_it_has_begun(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", ONE_EACH, age="3s") as server:
        before = server.pids()
        views = server.views()
        running = [
            Pending(
                lambda view=view: view.call(  # type: ignore[misc]
                    "hostile", "spin", context=context(timeout_ms=4000)
                )
            )
            for view in views
        ]
        server.wait_for_load(2)
        server.signal(signal.SIGHUP)
        assert [code_of(each.answer()) for each in running] == ["TIMEOUT"] * 2
        until(lambda: len(server.pids()) == 2 and not before.keys() & server.pids().keys())


def test_what_waits_on_a_worker_that_retires_goes_on_with_another(moving: WorkersServer) -> None:
    one, _ = moving.views()
    spinning = spinning_on(one, context=context(max_retries=3))
    waiting = submit(one, "calc", "divide", 84, 2).execution_id
    moving.replace_all()
    until(lambda: status_of(moving, spinning).result.status == RUNNING)
    assert status_of(moving, spinning).result.metrics["attempts"] == "2"
    assert cancel(moving, spinning).final_status == CANCELLED
    assert outcome(moving, waiting).status == COMPLETED


def test_workers_that_retire_end_well(moving: WorkersServer) -> None:
    before = {str(number) for number in moving.pids()}
    moving.replace_all()

    def ends() -> list[dict[str, Any]]:
        whole, _, _ = moving.log().rpartition("\n")
        told = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [each for each in told if each["event"] == "worker ended" and str(each["worker"]) in before]

    until(lambda: len(ends()) == 2)
    assert [each["exit_code"] for each in ends()] == [0, 0]
    assert "Traceback" not in moving.log()


# --- the supervisor ---------------------------------------------------------------------------------------


def test_nobody_is_left_when_the_supervisor_is_killed(server: WorkersServer) -> None:
    workers = [psutil.Process(pid) for pid in server.pids().values()]
    for view in server.views():
        spinning_on(view)
    server.signal(signal.SIGKILL)
    server.exit_code()
    assert not psutil.wait_procs(workers, PATIENCE)[1]


def test_after_the_supervisor_was_killed_the_next_one_takes_up_what_was_left(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", ONE_EACH) as first:
        running = [spinning_on(view, context=context(max_retries=1)) for view in first.views()]
        waiting = [submit(view, "calc", "divide", 84, 2).execution_id for view in first.views()]
        workers = [psutil.Process(pid) for pid in first.pids().values()]
        first.signal(signal.SIGKILL)
        first.exit_code()
        psutil.wait_procs(workers, PATIENCE)
    with running_workers(tmp_path / "server", ONE_EACH, artifacts=()) as second:
        for execution_id in running:
            until(lambda execution_id=execution_id: cancel(second, execution_id).success)  # type: ignore[misc]
        assert [outcome(second, each).status for each in waiting] == [COMPLETED] * 2


def test_what_has_yet_to_be_taken_up_is_known_to_every_worker(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", ONE_EACH) as first:
        for view in first.views():
            spinning_on(view)
        left = [submit(view, "calc", "divide", 84, 2).execution_id for view in first.views()]
        workers = [psutil.Process(pid) for pid in first.pids().values()]
        first.signal(signal.SIGKILL)
        first.exit_code()
        psutil.wait_procs(workers, PATIENCE)
    shutil.rmtree(first.data_dir / "code")
    with contextlib.ExitStack() as room:
        # The next one compiles what it takes up, and waits with that for room on the disk.
        room.enter_context(FileLocks(first.data_dir).held(Key.ROOM))
        with running_workers(tmp_path / "server", ONE_EACH, artifacts=()) as second:
            for view, execution_id in itertools.product(second.views(), left):
                assert has_no_answer_yet(view, execution_id)
                assert not status_of(view, "nobody's").found
            room.close()
            assert [outcome(second, each).status for each in left] == [COMPLETED] * 2


def has_no_answer_yet(server: Server, execution_id: str) -> bool:
    request = pb.GetExecutionStatusRequest(execution_id=execution_id)
    try:
        server.functions.GetExecutionStatus(request, timeout=0.2)
    except grpc.RpcError as failed:
        return failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return False


def test_a_signal_stops_all_workers_within_one_grace(server: WorkersServer) -> None:
    for view in server.views():
        spinning_on(view)
    workers = [psutil.Process(pid) for pid in server.pids().values()]
    assert server.stop() == 0
    assert not psutil.wait_procs(workers, 0)[1]


def test_a_signal_to_all_processes_is_one_signal(server: WorkersServer) -> None:
    one, _ = server.views()
    running = Pending(lambda: one.call("hostile", "spin", context=context(timeout_ms=2900)))
    server.wait_for_load(1)
    for pid in (*server.pids().values(), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert code_of(running.answer()) == "TIMEOUT", "it had its time"
    assert server.exit_code() == 0
    assert "second signal" not in server.log()


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", ONE_EACH) as server:
        for view in server.views():
            spinning_on(view)
        server.signal()
        until(lambda: "server stopping" in server.log())
        server.signal()
        assert server.exit_code() == 0


def test_a_worker_that_cannot_serve_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("short\n")
    process, log = launch(tmp_path, f'[server]\nworkers = 2\ntoken_file = "{tokens}"\n')
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None
    assert process.stdout.read() == ""
    process.stdout.close()
    assert "must hold a token a line" in log.read_text().splitlines()[-1]


def test_a_port_or_a_directory_that_others_have_is_refused(server: WorkersServer, tmp_path: Path) -> None:
    for address, data_dir, complaint in (
        (server.address, tmp_path / "other", "cannot listen on"),
        ("127.0.0.1:0", server.data_dir, f"in use by process {server.process.pid}"),
    ):
        process, log = launch(
            tmp_path / "second", "[server]\nworkers = 2", address=address, data_dir=data_dir
        )
        assert process.wait(PATIENCE) == 2
        assert process.stdout is not None
        process.stdout.close()
        assert complaint in log.read_text()


def test_less_of_something_than_there_are_workers_is_refused(tmp_path: Path) -> None:
    process, log = launch(tmp_path, "[server]\nworkers = 3\n[execution]\nmax_running = 2")
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None
    process.stdout.close()
    assert "execution.max_running is 2, which is less than one for each of the 3 workers" in log.read_text()


def test_together_workers_run_no_more_than_the_server_may(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", "[execution]\nmax_running = 3\nmax_pending = 5") as server:
        for view in server.views():
            refusals = [refusal for _ in range(9) if (refusal := _refusal_of_spinning(view))]
            assert set(refusals) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        server.wait_for_load(3, 5)


FOR_LONG = '\n[default_limits]\nmax_wall_time = "300s"\n'
"""More than anybody here waits: no guest ends by itself."""


def test_one_worker_has_the_places_that_others_do_not_need_until_they_do(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", "[execution]\nmax_running = 2" + FOR_LONG) as server:
        busy, other = server.views()
        first = [spinning_on(busy) for _ in range(2)]
        later = submit(busy, "hostile", "spin").execution_id
        elsewhere = submit(other, "hostile", "spin").execution_id
        server.wait_for_load(2, 2)
        cancel(busy, first[0])
        wait_for(other, elsewhere, RUNNING)
        assert status_of(busy, later).result.status == PENDING
        cancel(busy, first[1])
        wait_for(busy, later, RUNNING)
        server.wait_for_load(2, 0)


def test_what_guests_may_grow_to_is_bounded_on_all_workers_together(tmp_path: Path) -> None:
    config = '[execution]\nmax_total_memory = "128MiB"' + FOR_LONG
    with running_workers(tmp_path / "server", config) as server:
        large = {"limits": limits(max_memory_bytes=64 << 20)}
        busy, other = server.views()
        running = [spinning_on(busy, **large) for _ in range(2)]
        waiting = [submit(other, "hostile", "spin", **large).execution_id for _ in range(2)]
        server.wait_for_load(2, 2)
        for ended, begun in zip(running, waiting, strict=True):
            cancel(busy, ended)
            wait_for(other, begun, RUNNING)


def test_the_places_of_a_worker_that_is_killed_are_free_again(tmp_path: Path) -> None:
    with running_workers(tmp_path / "server", "[execution]\nmax_running = 2" + FOR_LONG) as server:
        doomed, other = server.views()
        for _ in range(2):
            spinning_on(doomed)
        waiting = [submit(other, "hostile", "spin").execution_id for _ in range(2)]
        server.wait_for_load(2, 2)
        server.kill(doomed.number)
        for each in waiting:
            wait_for(other, each, RUNNING)


def _refusal_of_spinning(worker: WorkerView) -> grpc.StatusCode | None:
    try:
        submit(worker, "hostile", "spin")
    except grpc.RpcError as refused:
        return read_refusal(refused).code
    return None
