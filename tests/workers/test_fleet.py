"""Which workers are started, replaced and stopped, with processes and a clock that are none."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest

from spear_wasm.board import Account, Board
from spear_wasm.workers.control import Failed, Message, Ready, Retire, Stop, TakenOver, TakeOver
from spear_wasm.workers.fleet import Fleet, Worker
from spear_wasm.workers.restarts import MOST_FAILURES, STEADY_SECONDS

PLACES = 2


@dataclass(eq=False)
class FakeChild:
    """A process that does nothing but note what it is sent."""

    pid: int
    signals: list[signal.Signals] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def tell(self, message: Message) -> None:
        self.messages.append(message)

    def takeovers(self) -> list[TakeOver]:
        return [message for message in self.messages if isinstance(message, TakeOver)]


class Bench:
    """A fleet of two, and what can be done to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.board = Board(PLACES + 2)
        self.children: dict[int, FakeChild] = {}
        self.events: list[str] = []
        self.gone: list[int] = []
        self.fleet = Fleet(
            PLACES,
            self.board,
            launch=self._launch,
            clock=lambda: self.now,
            on_listening=lambda: self.events.append("listening"),
            on_gone=self.gone.append,
        )
        self.fleet.start()

    def _launch(self, worker: Worker) -> FakeChild:
        return self.children.setdefault(worker.number, FakeChild(5000 + worker.number))

    @property
    def numbers(self) -> list[int]:
        return [worker.number for worker in self.fleet.alive]

    def worker(self, number: int) -> Worker:
        return next(worker for worker in self.fleet.alive if worker.number == number)

    def ready(self, *numbers: int) -> None:
        for number in numbers:
            self.fleet.heard(self.worker(number), Ready())

    def die(self, number: int, exit_code: int = -signal.SIGKILL) -> None:
        self.fleet.ended(self.worker(number), exit_code)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.restart()


@pytest.fixture
def starting() -> Bench:
    return Bench()


@pytest.fixture
def bench(starting: Bench) -> Bench:
    starting.ready(1, 2)
    for child in starting.children.values():
        for duty in child.takeovers():
            starting.fleet.heard(starting.worker(child.pid - 5000), TakenOver(duty))
        child.messages.clear()
    return starting


# --- the start --------------------------------------------------------------------------------------------


def test_it_listens_when_all_are_ready_and_each_takes_its_part_of_what_an_earlier_run_left(
    starting: Bench,
) -> None:
    assert starting.numbers == [1, 2]
    starting.ready(2)
    assert starting.events == []
    assert not starting.children[2].messages, "who is ready first does not get it all"
    starting.ready(1)
    assert starting.events == ["listening"]
    assert [starting.children[number].messages for number in (1, 2)] == [
        [TakeOver(0, 0, 2)],
        [TakeOver(0, 1, 2)],
    ]


def test_a_worker_that_cannot_start_ends_the_start_with_its_reason(starting: Bench) -> None:
    starting.fleet.heard(starting.worker(1), Failed("no such certificate"))
    starting.die(1, 1)
    assert starting.fleet.failure == "no such certificate"
    assert starting.fleet.is_stopping
    assert starting.children[2].messages == [Stop(at_once=False)]
    starting.die(2, -signal.SIGTERM)
    assert not starting.fleet.alive
    assert starting.numbers == []


def test_a_worker_that_dies_as_it_starts_says_at_least_how(starting: Bench) -> None:
    starting.die(1)
    assert starting.fleet.failure == "a worker ended before it could serve (signal 9)"


# --- deaths -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_at_once_and_others_take_over_what_it_left(bench: Bench) -> None:
    bench.die(1)
    assert bench.gone == [1]
    assert bench.fleet.next_restart == bench.now
    assert bench.children[2].takeovers() == [TakeOver(1, 0, 1)]
    bench.pass_time(0)
    assert bench.numbers == [2, 3]
    assert bench.events == ["listening"], "once"
    bench.ready(3)
    assert not bench.children[3].messages
    assert [bench.worker(number).place.number for number in (3, 2)] == [0, 1]


def test_who_dies_young_again_and_again_is_replaced_less_and_less_often(bench: Bench) -> None:
    pauses = []
    for number in range(3, 8):
        bench.die(min(bench.numbers) if number == 3 else number - 1)
        assert bench.fleet.next_restart is not None
        pauses.append(bench.fleet.next_restart - bench.now)
        bench.pass_time(pauses[-1])
        bench.ready(number)
    assert pauses[0] == 0
    assert pauses[1:] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    bench.pass_time(STEADY_SECONDS)
    bench.die(7)
    assert bench.fleet.next_restart == bench.now, "one that has served for long starts anew"


def test_nothing_is_started_before_its_time(bench: Bench) -> None:
    bench.die(1)
    bench.pass_time(0)
    bench.die(3)
    bench.pass_time(0.05)
    assert bench.numbers == [2]
    bench.pass_time(0.06)
    assert bench.numbers == [2, 4]


def test_it_gives_up_when_none_serves_and_none_can_be_started(bench: Bench) -> None:
    bench.die(2)
    bench.die(1)
    for _ in range(MOST_FAILURES):
        bench.pass_time(20)
        for number in bench.numbers:
            bench.fleet.heard(bench.worker(number), Failed("the disk is gone"))
            bench.die(number, 1)
    assert bench.fleet.failure == "the disk is gone"


def test_while_one_serves_it_does_not_give_up(bench: Bench) -> None:
    bench.die(1)
    for _ in range(3 * MOST_FAILURES):
        bench.pass_time(20)
        bench.die(max(bench.numbers), 1)
    assert not bench.fleet.failure
    assert bench.numbers == [2]


def test_what_the_heir_has_not_taken_over_when_it_dies_another_one_takes(bench: Bench) -> None:
    bench.die(1)
    bench.pass_time(0)
    bench.ready(3)
    assert bench.children[2].takeovers() == [TakeOver(1, 0, 1)]
    bench.die(2)
    assert bench.children[3].takeovers() == [TakeOver(1, 0, 1), TakeOver(2, 0, 1)]
    for duty in bench.children[3].takeovers():
        bench.fleet.heard(bench.worker(3), TakenOver(duty))
    bench.pass_time(0)
    bench.ready(4)
    assert not bench.children[4].messages


def test_what_nobody_can_take_over_waits_for_whoever_comes(bench: Bench) -> None:
    bench.die(1)
    bench.die(2)
    bench.pass_time(0)
    bench.ready(4)
    assert {duty.gone for duty in bench.children[4].takeovers()} == {1, 2}


def test_what_a_dead_worker_had_counted_stays_counted_but_for_what_it_had_begun(bench: Bench) -> None:
    seat = bench.worker(1).seat
    seat.count(Account.ARTIFACTS, 100)
    seat.count(Account.UPLOADS, 7)
    bench.die(1)
    supervisor = bench.board.seat(0)
    assert (supervisor.total(Account.ARTIFACTS), supervisor.total(Account.UPLOADS)) == (100, 0)
    assert (seat.worker, seat.answers) == (0, False)


# --- replacing all ----------------------------------------------------------------------------------------


def test_all_are_replaced_one_after_the_other_and_the_new_one_serves_first(bench: Bench) -> None:
    bench.fleet.replace_all()
    assert bench.numbers == [1, 2, 3]
    assert not bench.children[1].messages
    bench.ready(3)
    assert bench.children[1].messages == [Retire()]
    assert bench.numbers == [1, 2, 3], "the next one has to wait until the first has gone"
    bench.die(1, 0)
    assert bench.numbers == [2, 3, 4]
    assert bench.children[3].takeovers() == [TakeOver(1, 0, 1)], "not who is to go next"
    bench.ready(4)
    bench.die(2, 0)
    assert bench.numbers == [3, 4]
    assert bench.fleet.next_restart is None
    assert bench.fleet.all_ended_well


def test_once_more_while_all_are_replaced_is_once_more_afterwards(bench: Bench) -> None:
    bench.fleet.replace_all()
    bench.fleet.replace_all()
    for old, new in ((1, 3), (2, 4), (3, 5), (4, 6)):
        bench.ready(new)
        bench.die(old, 0)
    assert bench.numbers == [5, 6]


def test_a_successor_that_does_not_start_leaves_the_old_ones_where_they_are(bench: Bench) -> None:
    bench.fleet.replace_all()
    bench.fleet.heard(bench.worker(3), Failed("no such certificate"))
    bench.die(3, 1)
    assert bench.numbers == [1, 2]
    assert not bench.children[1].messages
    assert not bench.children[2].messages
    assert not bench.fleet.failure
    bench.fleet.replace_all()
    assert bench.numbers == [1, 2, 4]


def test_who_dies_while_its_successor_starts_is_not_replaced_twice(bench: Bench) -> None:
    bench.fleet.replace_all()
    bench.die(1)
    assert bench.fleet.next_restart is None
    bench.ready(3)
    assert bench.numbers == [2, 3, 4], "and the next one's turn has come"


# --- the end ----------------------------------------------------------------------------------------------


def test_all_are_told_to_stop_and_nobody_is_started_again(bench: Bench) -> None:
    bench.die(1)
    bench.fleet.stop()
    assert bench.fleet.next_restart is None
    assert bench.children[2].messages[-1] == Stop(at_once=False)
    bench.fleet.stop()
    assert bench.children[2].messages[-1] == Stop(at_once=True)
    bench.die(2, 0)
    assert not bench.fleet.alive
    assert bench.fleet.all_ended_well


def test_who_is_ready_when_all_stop_changes_nothing(starting: Bench) -> None:
    starting.ready(1)
    starting.fleet.stop()
    starting.ready(2)
    assert starting.events == []
    starting.die(1, 0)
    starting.die(2, 0)
    assert starting.fleet.all_ended_well
    assert not starting.fleet.failure


def test_who_has_to_be_killed_has_not_ended_well(bench: Bench) -> None:
    bench.fleet.stop()
    bench.die(1, 0)
    bench.fleet.kill()
    assert bench.children[2].signals == [signal.SIGKILL]
    bench.die(2)
    assert not bench.fleet.all_ended_well
