"""A guest's log while it runs: as far as it has come, and line by line to those who follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client import Client
from spear_wasm.errors import ExecutionNotFound, ServerDraining
from tests.engine.modules_by_hand import wat
from tests.rpc.conftest import StartServer
from tests.rpc.serving import PATIENCE, Server, context, fresh, refused, until
from tests.rpc.test_executions import cancel, status_of, wait_for

LOGGER = """
(module
  (import "spear" "write_log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "tick\\n")
  (func $tick
    (local $turns i32)
    (call $log (i32.const 0) (i32.const 5))
    (local.set $turns (i32.const 1000000))
    (loop $again
      (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
      (br_if $again (local.get $turns))))
  (func (export "tick_for_ever") (loop $again (call $tick) (br $again)))
  (func (export "tick_twice") (call $tick) (call $tick))
  (func (export "tick_and_spin") (call $tick) (loop $for_ever (br $for_ever)))
  (func (export "tick_and_trap") (call $tick) (unreachable)))
"""
TICK = b"tick\n"


@pytest.fixture
def ticking(start_server: StartServer) -> Server:
    server = start_server("[execution]\nmax_running = 1")
    server.upload(wat(LOGGER), "logger")
    return server


def submit(server: Server, function: str, **fields: Any) -> str:
    fields.setdefault("context", context(timeout_ms=20_000))
    return server.call("logger", function, execution_mode=pb.EXECUTION_MODE_ASYNC, **fields).execution_id


def follow(server: Server, execution_id: str) -> Iterator[pb.FollowLogResponse]:
    return server.functions.FollowLog(pb.FollowLogRequest(execution_id=execution_id), timeout=PATIENCE)


def all_of(parts: Iterator[pb.FollowLogResponse]) -> bytes:
    return b"".join(part.content for part in parts)


def test_what_a_guest_logs_comes_while_it_runs(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_for_ever")
    parts = follow(ticking, execution_id)
    seen = [next(parts).content for _ in range(3)]
    assert status_of(ticking, execution_id).result.status == pb.EXECUTION_STATUS_RUNNING
    assert all(part and part == TICK * (len(part) // len(TICK)) for part in seen[1:])
    cancel(ticking, execution_id)
    whole = b"".join(seen) + all_of(parts)
    assert whole == status_of(ticking, execution_id, include_result=True).result.stderr


def test_who_follows_before_it_begins_gets_everything(ticking: Server) -> None:
    first, second = submit(ticking, "tick_and_spin"), submit(ticking, "tick_twice")
    parts = follow(ticking, second)
    wait_for(ticking, first, pb.EXECUTION_STATUS_RUNNING)
    assert status_of(ticking, second).result.status == pb.EXECUTION_STATUS_PENDING
    cancel(ticking, first)
    assert all_of(parts) == 2 * TICK


def test_who_follows_after_the_end_gets_everything_at_once(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_twice")
    wait_for(ticking, execution_id, pb.EXECUTION_STATUS_COMPLETED)
    assert [part.content for part in follow(ticking, execution_id)] == [2 * TICK]


def test_the_status_of_one_that_runs_has_its_log_so_far(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_and_spin")
    until(lambda: status_of(ticking, execution_id, include_logs=True).logs == ["tick"])
    assert status_of(ticking, execution_id, include_result=True).result.stderr == TICK
    assert not status_of(ticking, execution_id).result.stderr
    cancel(ticking, execution_id)


def test_several_follow_one_and_one_who_hangs_up_changes_nothing(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_for_ever")
    followers = [follow(ticking, execution_id) for _ in range(3)]
    read = [next(parts).content for parts in followers]
    hung_up = followers.pop()
    assert isinstance(hung_up, grpc.Call)
    hung_up.cancel()
    read = [before + next(parts).content for before, parts in zip(read, followers, strict=False)]
    assert status_of(ticking, execution_id).result.status == pb.EXECUTION_STATUS_RUNNING
    cancel(ticking, execution_id)
    one, other = (before + all_of(parts) for before, parts in zip(read, followers, strict=True))
    assert one == other


def test_each_attempt_logs_from_the_beginning(start_server: StartServer) -> None:
    server = start_server('[execution]\nfirst_backoff = "1500ms"')
    server.upload(wat(LOGGER), "logger")
    spec = {"runtime_config": {"retry_traps": True}}
    execution_id = submit(
        server, "tick_and_trap", spec=spec, context=context(max_retries=1, timeout_ms=20_000)
    )
    parts = [(part.attempt, part.content) for part in follow(server, execution_id)]
    assert parts == [(1, TICK), (2, TICK)]


def test_a_reused_sandbox_shows_nobody_what_another_call_logs(start_server: StartServer) -> None:
    server = start_server("[execution]\nmax_running = 1")
    server.upload(wat(LOGGER), "logger")
    spec, name = {"runtime_config": {"reuse": True}}, fresh("task")
    first = submit(server, "tick_twice", spec=spec, task_name=name)
    following = follow(server, first)
    second = submit(server, "tick_twice", spec=spec, task_name=name)
    assert all_of(following) == all_of(follow(server, second)) == 2 * TICK


def test_a_log_that_is_cut_is_followed_to_the_cut(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_for_ever", limits=pb.ResourceLimits(max_log_bytes=12))
    parts = follow(ticking, execution_id)
    seen = b""
    while len(seen) < 12:
        seen += next(parts).content
    assert seen == (3 * TICK)[:12]
    cancel(ticking, execution_id)
    assert all_of(parts) == b""


def test_nobody_can_follow_what_is_not_there(ticking: Server) -> None:
    refused(ExecutionNotFound, lambda: next(follow(ticking, "nobody's")))


def test_a_shutdown_ends_what_waits_to_be_followed(start_server: StartServer) -> None:
    server = start_server('[execution]\nmax_running = 1\n[server]\nshutdown_grace = "100ms"')
    server.upload(wat(LOGGER), "logger")
    submit(server, "tick_and_spin")
    waiting = submit(server, "tick_twice")
    parts = follow(server, waiting)
    until(lambda: status_of(server, waiting).found)
    server.signal()
    refused(ServerDraining, lambda: next(parts))


def test_the_client_follows(ticking: Server) -> None:
    execution_id = submit(ticking, "tick_for_ever")
    with Client(ticking.address) as client:
        pieces = client.follow_log(execution_id)
        assert next(pieces).startswith(TICK)
        client.cancel(execution_id)
        assert all(piece.strip() for piece in pieces)
        with pytest.raises(ExecutionNotFound):
            next(client.follow_log("nobody's"))
