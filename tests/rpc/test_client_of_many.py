"""Client.batch and Client.invoke_stream, against a real server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from spear_wasm.client import Client, GuestFailure, Invocation
from spear_wasm.errors import BatchTooLarge, FunctionNotFound, InvalidRequest
from spear_wasm.limits import ResourceLimits
from tests.rpc.conftest import StartServer
from tests.rpc.serving import Server, fixture, fresh


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected
    server.wait_for_load(0)


def test_a_batch_gives_an_answer_for_each_input_in_their_order(client: Client) -> None:
    answers = client.batch("calc", "divide", [(84, 2), (1, 0), ("one", 1), {"divisor": 2, "dividend": 8}])
    assert [answer.ok for answer in answers] == [True, False, False, True]
    assert (answers[0].value, answers[3].value) == (42, 4)
    with pytest.raises(GuestFailure, match="TRAP_DIVIDE_BY_ZERO"):
        _ = answers[1].value
    assert isinstance(answers[2].refusal, InvalidRequest)
    with pytest.raises(InvalidRequest, match="integer"):
        _ = answers[2].value


def test_a_batch_s_options_are_for_each_of_its_calls(client: Client) -> None:
    fuel = client.batch("calc", "count_to", [(10,), (2**30,)], limits=ResourceLimits(max_fuel=9000))
    time = client.batch("host_calls", "sleep", [(10,), (2**31 - 1,)], timeout=2)
    assert fuel[0].value == 10
    assert time[0].value in range(9, 2000)
    assert fuel[1].result is not None
    assert time[1].result is not None
    assert (fuel[1].result.error_code, time[1].result.error_code) == ("OUT_OF_FUEL", "TIMEOUT")


def test_a_batch_that_is_refused_raises(client: Client) -> None:
    with pytest.raises(BatchTooLarge):
        client.batch("calc", "add", [(1, 2)] * 2000)
    with pytest.raises(FunctionNotFound):
        client.batch("calc", "subtract", [(1, 2)])


def test_each_of_many_invocations_comes_back_with_its_answer(start_server: StartServer) -> None:
    server = start_server()  # whose line has room for all of them, however slow it is
    server.upload(fixture("calc"), "calc", "1")
    invocations = [Invocation("calc", "add", (number, 1)) for number in range(700)]
    invocations += [Invocation("calc", "divide", (1, 0)), Invocation("calc", "subtract", (1, 0))]
    with Client(server.address) as client:
        answers = {id(invocation): answer for invocation, answer in client.invoke_stream(invocations)}
    *sums, trapped, refused = (answers[id(each)] for each in invocations)
    assert [answer.value for answer in sums] == list(range(1, 701))
    assert not trapped.ok
    assert isinstance(refused.refusal, FunctionNotFound)


def test_invocations_without_end_are_taken_no_faster_than_answers_are(start_server: StartServer) -> None:
    server = start_server()  # whose line has room for all that a stream has under way
    server.upload(fixture("calc"), "calc", "1")
    taken = itertools.count()
    endless = (Invocation("calc", "add", (next(taken) % 1000, 1)) for _ in itertools.count())
    with Client(server.address) as client:
        stream = client.invoke_stream(endless)
        for _ in range(50):
            _, answer = next(stream)
            assert answer.ok
        assert isinstance(stream, Iterator)
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        stopped_at = next(taken)
        assert next(taken) <= stopped_at + 2


def test_closing_ends_what_runs(client: Client, server: Server) -> None:
    quick, slow = Invocation("calc", "add", (1, 2)), Invocation("hostile", "spin", timeout=20.0)
    stream = client.invoke_stream([slow, quick])
    assert next(stream)[0] is quick
    server.wait_for_load(1)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    server.wait_for_load(0)


def test_a_key_is_used_once(client: Client) -> None:
    key = fresh("key")
    invocations = [Invocation("calc", "add", (1, 2), key=key)] * 2
    ids = {answer.result.execution_id for _, answer in client.invoke_stream(invocations) if answer.result}
    assert ids == {key}


def test_what_ends_the_invocations_early_is_raised(client: Client) -> None:
    def breaking() -> Iterator[Invocation]:
        yield Invocation("calc", "add", (1, 2))
        raise KeyError("no more of them")

    with pytest.raises(KeyError, match="no more of them"):
        list(client.invoke_stream(breaking()))
    with pytest.raises(InvalidRequest, match="64 bits"):
        list(client.invoke_stream([Invocation("calc", "add", (2**70, 1))]))
