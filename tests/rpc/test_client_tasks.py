"""Tasks that a client makes by a runtime_config, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from spear_wasm.cli import commands
from spear_wasm.client import Client, Invocation
from spear_wasm.errors import InvalidRequest, PermissionDenied, TaskExists
from tests.rpc.modules import unique_module
from tests.rpc.programs import program
from tests.rpc.serving import Server, fresh

REUSED = {"reuse": True}


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A connection whose tasks, and the sandboxes that they keep, are gone after the test."""
    with Client(server.address) as connected:
        earlier = {task.task_id for task in connected.tasks()}
        yield connected
        server.wait_for_load(0)
        for task in list(connected.tasks()):
            if task.task_id not in earlier:
                connected.delete_task(task.task_id)


def bump_in_stream(client: Client, terms: dict[str, Any]) -> Any:
    with client.stream("initialize", "bump", **terms) as messages:
        assert list(messages) == []
        return messages.result.value


def bump_on_stream(client: Client, terms: dict[str, Any]) -> Any:
    ((_, answer),) = client.invoke_stream([Invocation("initialize", "bump", **terms)])
    return answer.value


WAYS: dict[str, Callable[[Client, dict[str, Any]], Any]] = {
    "call": lambda client, terms: client.call("initialize", "bump", **terms).value,
    "batch": lambda client, terms: client.batch("initialize", "bump", [()], **terms)[0].value,
    "stream": bump_in_stream,
    "submit": lambda client, terms: client.wait(client.submit("initialize", "bump", **terms)).value,
    "invoke_stream": bump_on_stream,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_task_keeps_to_its_config_beside_the_usual_one(client: Client, way: str) -> None:
    bump = WAYS[way]
    first = WAYS["call"](client, {})
    terms = {"runtime_config": REUSED, "task_name": fresh("reused")}
    assert [bump(client, terms) for _ in range(3)] == [first, first + 1, first + 2]
    assert bump(client, {}) == first


def test_calls_with_one_config_are_of_one_task(client: Client) -> None:
    results = [client.call("calc", "answer", runtime_config=config) for config in (REUSED, REUSED, {}, None)]
    first, second, usual, same = (result.task_id for result in results)
    assert first == second != usual == same
    assert client.call_task(first, "answer").value == 42


def test_a_config_is_that_of_the_version_which_is_called(server: Server, client: Client) -> None:
    name = fresh("artifact")
    tasks = []
    for version in ("1", "2"):
        server.upload(unique_module(name + version), name, version)
        tasks.append(client.call(name, "answer", runtime_config=REUSED).task_id)
    assert tasks[0] != tasks[1]
    assert [client.call(f"{name}:{each}", "answer", runtime_config=REUSED).task_id for each in "12"] == tasks


def test_a_task_of_that_name_with_another_config_is_left_alone(client: Client) -> None:
    name = fresh("named")
    client.call("calc", "answer", runtime_config=REUSED, task_name=name)
    with pytest.raises(TaskExists):
        client.call("calc", "answer", runtime_config={"retry_traps": True}, task_name=name)
    assert client.task(name).artifact_spec.runtime_config["reuse"]


def test_the_command_line_runs_a_program_by_its_arguments_and_as_it_is_set(server: Server) -> None:
    server.upload(program(), "program", "1")

    def call(*words: str, stdin: bytes = b"") -> str:
        command = ("call", "program", *words, "--addr", server.address)
        return CliRunner().invoke(commands, command, input=stdin, catch_exceptions=False).stdout

    assert call() == "hello\n"
    assert call("arguments", "-7") == "0: program\n1: arguments\n2: -7\n"
    assert call("words", "--stdin", stdin=b"one two") == "2\n"
    assert call("arguments", "--set", "argv0=report", "--stream") == "0: report\n1: arguments\n"


def test_a_config_that_the_server_refuses_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="no key 'reus'"):
        client.call("calc", "answer", runtime_config={"reus": True})
    invocation = Invocation("calc", "answer", runtime_config={"reuse": 5})
    ((_, answer),) = client.invoke_stream([invocation])
    assert isinstance(answer.refusal, InvalidRequest)


def test_grants_that_the_operator_does_not_allow_are_refused(server: Server, client: Client) -> None:
    name = fresh("program")
    server.upload(program(), name)
    with pytest.raises(PermissionDenied, match="readable_directories"):
        client.call(name, "_start", runtime_config={"directories": {"/": "/etc"}})
