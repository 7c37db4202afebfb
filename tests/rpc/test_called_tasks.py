"""Tasks that are made for calls, and what becomes of them where the calls are refused after all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.config import Config
from spear_wasm.errors import CompilerKilled, ServerBusy
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.host import open_host
from spear_wasm.locks.file_locks import FileLocks
from spear_wasm.locks.keys import Key
from spear_wasm.rpc.called_tasks import CalledTasks
from spear_wasm.rpc.others import NoOthers
from tests.rpc.conftest import StartServer
from tests.rpc.serving import (
    PATIENCE,
    Pending,
    Server,
    code_of,
    compilations_of,
    fixture,
    limits,
    refused,
    until,
)

SMALL = """
[execution]
max_running = 2
max_pending = 2
[pool]
max_ready = 1
max_ready_per_task = 1
[engine]
sandboxes = 16
"""
METERED = limits(max_fuel=10**9)
"""What code is compiled for that no upload has compiled yet."""
TASK = "made-for-a-call"


@pytest.fixture
def small(start_server: StartServer) -> Server:
    """A server that runs two at once and lets two wait. Has the task `other`."""
    server = start_server(SMALL)
    server.upload(fixture("hostile"), "hostile")
    server.call("hostile", "unreachable", task_name="other")
    return server


class HeldCompilation:
    """A compilation of a server's, held where it has its machine code and asks for room on the disk."""

    def __init__(self, server: Server) -> None:
        self._server = psutil.Process(server.process.pid)
        self._room = contextlib.ExitStack()
        self._room.enter_context(FileLocks(server.data_dir).held(Key.ROOM))

    def wait_until_begun(self) -> None:
        until(lambda: bool(compilations_of(self._server)))

    def go_on(self) -> None:
        self._room.close()

    def kill(self) -> None:
        (child,) = compilations_of(self._server)
        child.kill()
        self.go_on()


@pytest.fixture
def compilation(small: Server) -> Iterator[HeldCompilation]:
    """The next one of `small`."""
    held = HeldCompilation(small)
    yield held
    held.go_on()


@contextlib.contextmanager
def full(server: Server) -> Iterator[None]:
    """Meanwhile guests of another task run, and wait in all of the line."""
    request = pb.InvokeFunctionRequest(task_id="other", function_name="spin")
    guests = [server.functions.InvokeFunction.future(request) for _ in range(4)]
    server.wait_for_load(2, 2)
    yield
    for guest in guests:
        guest.cancel()
    server.wait_for_load(0)


def call_of(server: Server, mode: int = pb.EXECUTION_MODE_SYNC, key: str = "") -> Pending:
    """A call of the task that makes it, and with it metered code."""
    return server.call_later(
        "hostile",
        "unreachable",
        spec={"resource_limits": METERED},
        task_name=TASK,
        execution_mode=mode,
        execution_id=key,
    )


def streamed_call_of(server: Server) -> Callable[[], object]:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="hostile", resource_limits=METERED),
        task_name=TASK,
        function_name="unreachable",
    )
    stream = server.functions.StreamFunction(request, timeout=PATIENCE)
    return lambda: list(stream)


@pytest.mark.parametrize(
    "begin",
    [
        lambda server: call_of(server).answer,
        lambda server: call_of(server, key="a-key").answer,
        lambda server: call_of(server, pb.EXECUTION_MODE_ASYNC).answer,
        streamed_call_of,
    ],
    ids=["sync", "with-a-key", "async", "streamed"],
)
def test_a_call_leaves_no_task_where_the_server_fills_up_while_that_is_made(
    begin: Callable[[Server], Callable[[], object]], small: Server, compilation: HeldCompilation
) -> None:
    answer = begin(small)
    compilation.wait_until_begun()
    with full(small):
        compilation.go_on()
        refused(ServerBusy, answer)
        assert not small.get_task(TASK).found
        assert small.stats().service_stats.total_tasks == 1
    assert code_of(call_of(small).answer()) == "TRAP_UNREACHABLE"
    assert small.get_task(TASK).found


def test_no_task_is_left_where_all_of_several_calls_for_it_are_refused(
    small: Server, compilation: HeldCompilation
) -> None:
    calls = [call_of(small) for _ in range(5)]
    compilation.wait_until_begun()
    with full(small):
        compilation.go_on()
        for call in calls:
            refused(ServerBusy, call.answer)
        assert not small.get_task(TASK).found


def needing_fuel(server: Server) -> Pending:
    """A call that makes the task, and is then accepted or not by whether metered code can be made for itself."""
    return server.call_later("hostile", "unreachable", task_name=TASK, limits=METERED)


def test_a_call_whose_own_code_cannot_be_made_leaves_no_task(
    small: Server, compilation: HeldCompilation
) -> None:
    call = needing_fuel(small)
    compilation.wait_until_begun()
    compilation.kill()
    refused(CompilerKilled, call.answer)
    assert not small.get_task(TASK).found


def test_a_task_stays_that_another_call_has_used_meanwhile(
    small: Server, compilation: HeldCompilation
) -> None:
    call = needing_fuel(small)
    compilation.wait_until_begun()
    used = small.invoke(task_id=TASK, function_name="unreachable")
    compilation.kill()
    refused(CompilerKilled, call.answer)
    assert small.get_task(TASK).task.task_id == used.task_id


def test_a_task_stays_that_another_call_still_waits_for(small: Server, compilation: HeldCompilation) -> None:
    patient = needing_fuel(small)
    compilation.wait_until_begun()
    with full(small):
        refused(ServerBusy, lambda: small.invoke(task_id=TASK, function_name="unreachable"))
        assert small.get_task(TASK).found
    compilation.go_on()
    assert code_of(patient.answer()) == "TRAP_UNREACHABLE"
    assert small.get_task(TASK).found


def test_a_task_stays_whose_caller_hung_up(small: Server, compilation: HeldCompilation) -> None:
    request = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="hostile", resource_limits=METERED),
        task_name=TASK,
        function_name="unreachable",
    )
    call = small.functions.InvokeFunction.future(request)
    compilation.wait_until_begun()
    call.cancel()
    compilation.go_on()
    until(lambda: small.get_task(TASK).found)


def test_a_task_stays_that_a_quick_call_has_used_on_another_thread(tmp_path: Path) -> None:
    spin = pb.InvokeFunctionRequest(
        artifact_spec=pb.ArtifactSpec(artifact_id="hostile"), task_name=TASK, function_name="spin"
    )
    with open_host(Config(), tmp_path) as host:
        with host.artifacts.begin_upload("hostile", "", "", 0, {}) as upload:
            upload.write(fixture("hostile"))
            upload.finish()
        called_tasks = CalledTasks(host, NoOthers())
        accepted: list[Execution] = []

        def refuse(call: Call) -> Execution:
            accepted.append(host.manager.submit(call))
            raise ServerBusy("this one is refused, just after the other was accepted")

        with pytest.raises(ServerBusy):
            asyncio.run(called_tasks.submit(spin, lambda: None, refuse))
        assert host.tasks.find(TASK) is accepted[0].task
        host.manager.cancel(accepted[0], "the test is over")
        called_tasks.close()
