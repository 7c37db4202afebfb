"""The line: first come, first served within a task, round robin between tasks, nothing lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spear_wasm.scheduling import InstanceScheduler, RoundRobin, Verdict

TASKS = "abcd"


@dataclass(frozen=True, slots=True)
class Item:
    task: str
    number: int


def scheduler_with(*items: Item) -> InstanceScheduler[Item]:
    scheduler: InstanceScheduler[Item] = InstanceScheduler(RoundRobin())
    for item in items:
        scheduler.add(item.task, item)
    return scheduler


def line(tasks: str) -> list[Item]:
    """Items numbered in the order in which they come."""
    return [Item(task, number) for number, task in enumerate(tasks)]


def start(_: Item) -> Verdict:
    return Verdict.START


def refuse(verdict: Verdict, *refused: Item) -> Callable[[Item], Verdict]:
    return lambda item: verdict if item in refused else Verdict.START


def drain(scheduler: InstanceScheduler[Item], judge: Callable[[Item], Verdict] = start) -> Iterator[Item]:
    while (item := scheduler.take_next(judge)) is not None:
        yield item


def test_an_empty_line_has_nobody_to_take() -> None:
    scheduler = scheduler_with()
    assert len(scheduler) == 0
    assert scheduler.take_next(start) is None


def test_a_task_with_many_waiting_does_not_keep_others_from_their_turns() -> None:
    items = line("aaaab")
    assert [item.number for item in drain(scheduler_with(*items))] == [0, 4, 1, 2, 3]


def test_a_task_that_is_full_lets_others_go_ahead() -> None:
    first, second, other = items = line("aab")
    scheduler = scheduler_with(*items)
    assert scheduler.take_next(refuse(Verdict.TASK_IS_FULL, first, second)) == other
    assert scheduler.take_next(refuse(Verdict.TASK_IS_FULL, first, second)) is None
    assert scheduler.waiting("a") == [first, second]
    assert len(scheduler) == 2


def test_nobody_goes_ahead_of_one_for_which_there_is_no_room_on_the_server() -> None:
    large, small = items = line("ab")
    scheduler = scheduler_with(*items)
    assert scheduler.take_next(refuse(Verdict.SERVER_IS_FULL, large)) is None
    assert scheduler.take_next(start) == large
    assert scheduler.take_next(start) == small


def test_those_behind_the_head_of_a_tasks_line_are_not_asked_about() -> None:
    items = line("aab")
    asked: list[Item] = []

    def judge(item: Item) -> Verdict:
        asked.append(item)
        return Verdict.TASK_IS_FULL

    assert scheduler_with(*items).take_next(judge) is None
    assert asked == [items[0], items[2]]


def test_leaving_the_line_keeps_the_order_of_the_others() -> None:
    items = line("aaa")
    scheduler = scheduler_with(*items)
    assert scheduler.remove("a", items[1])
    assert list(drain(scheduler)) == [items[0], items[2]]


def test_one_who_is_not_in_the_line_cannot_leave_it() -> None:
    (item,) = line("a")
    scheduler = scheduler_with(item)
    assert not scheduler.remove("b", item)
    assert scheduler.take_next(start) == item
    assert not scheduler.remove("a", item)
    assert len(scheduler) == 0


@given(st.text(alphabet=TASKS, min_size=1, max_size=60))
def test_everybody_is_taken_once_and_no_task_waits_for_more_turns_than_there_are_others(tasks: str) -> None:
    items = line(tasks)
    taken = list(drain(scheduler_with(*items)))
    assert sorted(taken, key=lambda item: item.number) == items
    left = {task: tasks.count(task) for task in tasks}
    turns_since = dict.fromkeys(tasks, 0)
    for item in taken:
        assert turns_since[item.task] < len(left)
        turns_since = {task: turns + 1 for task, turns in turns_since.items() if left[task]}
        turns_since[item.task] = 0
        left[item.task] -= 1


class Line(RuleBasedStateMachine):
    """The scheduler against lines that are as simple as can be."""

    @initialize()
    def open(self) -> None:
        self.scheduler = scheduler_with()
        self.lines: dict[str, list[Item]] = {task: [] for task in TASKS}
        self.come = 0

    @rule(task=st.sampled_from(TASKS))
    def comes(self, task: str) -> None:
        item = Item(task, self.come)
        self.come += 1
        self.scheduler.add(task, item)
        self.lines[task].append(item)

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([item for line in self.lines.values() for item in line]))
        assert self.scheduler.remove(item.task, item)
        self.lines[item.task].remove(item)
        assert not self.scheduler.remove(item.task, item)

    @rule(full=st.sets(st.sampled_from(TASKS)), crowded=st.booleans())
    def starts(self, full: set[str], crowded: bool) -> None:
        def judge(item: Item) -> Verdict:
            assert item == self.lines[item.task][0]  # first come, first served
            if item.task in full:
                return Verdict.TASK_IS_FULL
            return Verdict.SERVER_IS_FULL if crowded else Verdict.START

        item = self.scheduler.take_next(judge)
        if item is not None:
            assert self.lines[item.task].pop(0) == item
        else:
            assert crowded or all(task in full for task, line in self.lines.items() if line)

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        assert {task: self.scheduler.waiting(task) for task in TASKS} == self.lines
        assert len(self.scheduler) == sum(map(len, self.lines.values()))


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=50, stateful_step_count=40)
