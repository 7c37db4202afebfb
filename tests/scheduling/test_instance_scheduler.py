"""The line: by priority, then fairly between tasks, then by deadline; nothing lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spear_wasm.scheduling import DEFAULT_PRIORITY, InstanceScheduler, Verdict
from spear_wasm.scheduling.deadline_queue import FEW

TASKS = "abcd"
tasks = st.sampled_from(TASKS)
priorities = st.integers(0, 9)
deadlines = st.floats(0, 100)


@dataclass(frozen=True, slots=True)
class Item:
    task: str
    number: int
    deadline: float = 0
    priority: int = DEFAULT_PRIORITY

    @property
    def rank(self) -> tuple[int, float, int]:
        """Where it stands among those of its task."""
        return -self.priority, self.deadline, self.number


@st.composite
def crowds(draw: st.DrawFn) -> list[Item]:
    """Items numbered in the order in which they come."""
    drawn = draw(st.lists(st.tuples(tasks, deadlines, priorities), max_size=60))
    return [Item(task, number, deadline, priority) for number, (task, deadline, priority) in enumerate(drawn)]


def add(scheduler: InstanceScheduler[Item], *items: Item) -> None:
    for item in items:
        scheduler.add(item.task, item, deadline=item.deadline, priority=item.priority)


def scheduler_with(*items: Item) -> InstanceScheduler[Item]:
    scheduler: InstanceScheduler[Item] = InstanceScheduler()
    add(scheduler, *items)
    return scheduler


def line(tasks: str) -> list[Item]:
    """Items of one priority and deadline, numbered in the order in which they come."""
    return [Item(task, number) for number, task in enumerate(tasks)]


def start(_: Item) -> Verdict:
    return Verdict.START


def refuse(verdict: Verdict, *refused: Item) -> Callable[[Item], Verdict]:
    return lambda item: verdict if item in refused else Verdict.START


def drain(scheduler: InstanceScheduler[Item], judge: Callable[[Item], Verdict] = start) -> Iterator[Item]:
    while (item := scheduler.take_next(judge)) is not None:
        yield item


def take(scheduler: InstanceScheduler[Item]) -> Item:
    item = scheduler.take_next(start)
    assert item is not None
    return item


def test_an_empty_line_has_nobody_to_take() -> None:
    scheduler = scheduler_with()
    assert len(scheduler) == 0
    assert scheduler.take_next(start) is None


# --- priorities -------------------------------------------------------------------------------------------


def test_who_says_no_priority_has_5() -> None:
    scheduler: InstanceScheduler[str] = InstanceScheduler()
    scheduler.add("task", "lower", deadline=0, priority=4)
    scheduler.add("task", "usual", deadline=0)
    scheduler.add("task", "higher", deadline=0, priority=6)
    assert [scheduler.take_next(lambda _: Verdict.START) for _ in range(3)] == ["higher", "usual", "lower"]


def test_a_higher_priority_goes_first_whatever_the_deadlines_and_the_turns() -> None:
    urgent = [Item("a", number, deadline=100, priority=9) for number in range(3)]
    other = Item("b", 3, deadline=0, priority=8)
    assert list(drain(scheduler_with(other, *urgent))) == [*urgent, other]


@given(crowds())
def test_nobody_goes_before_one_of_a_higher_priority(crowd: list[Item]) -> None:
    taken = [item.priority for item in drain(scheduler_with(*crowd))]
    assert taken == sorted(taken, reverse=True)


# --- turns of tasks ---------------------------------------------------------------------------------------


def test_a_task_with_many_waiting_does_not_keep_others_from_their_turns() -> None:
    items = line("aaaab")
    assert [item.number for item in drain(scheduler_with(*items))] == [0, 4, 1, 2, 3]


def test_one_tasks_flood_leaves_anothers_trickle_every_second_turn() -> None:
    flood = line("f" * 1000)
    scheduler = scheduler_with(*flood)
    for number in range(1000, 1100):
        trickle = Item("t", number)
        add(scheduler, trickle)
        assert trickle in {take(scheduler), take(scheduler)}


def test_newcomers_without_end_do_not_keep_one_waiting() -> None:
    scheduler = scheduler_with(*line("ppp"))
    taken = []
    for number in range(10, 60):
        add(scheduler, Item(f"newcomer {number}", number), Item(f"another {number}", number))
        taken.append(take(scheduler).task)
    # It had a turn at once, and others when those had had theirs who stood there when it joined again.
    assert [turn for turn, task in enumerate(taken) if task == "p"] == [0, 3, 10]


def test_who_leaves_and_comes_back_gets_no_turn_before_those_who_stayed() -> None:
    first, stays, returning = Item("a", 0), Item("b", 1), Item("a", 2)
    scheduler = scheduler_with(first, stays)
    assert scheduler.remove("a", first)
    add(scheduler, returning)
    assert list(drain(scheduler)) == [stays, returning]


@given(st.text(alphabet=TASKS, min_size=1, max_size=60))
def test_everybody_is_taken_once_and_no_task_waits_for_more_turns_than_there_are_others(tasks: str) -> None:
    items = line(tasks)
    taken = list(drain(scheduler_with(*items)))
    assert sorted(taken, key=lambda item: item.number) == items
    left = Counter(tasks)
    turns_since = dict.fromkeys(tasks, 0)
    for item in taken:
        assert turns_since[item.task] < len(left)
        turns_since = {task: turns + 1 for task, turns in turns_since.items() if left[task]}
        turns_since[item.task] = 0
        left[item.task] -= 1


@given(crowds(), st.data())
def test_no_task_has_two_turns_while_another_waits_at_the_same_priority(
    crowd: list[Item], data: st.DataObject
) -> None:
    scheduler = scheduler_with()
    waiting: list[Item] = []
    turns_of_others: dict[tuple[str, int], list[str]] = {}
    for come in crowd:
        add(scheduler, come)
        waiting.append(come)
        turns_of_others.setdefault((come.task, come.priority), [])
        while len(scheduler) and data.draw(st.booleans()):
            served = take(scheduler)
            waiting.remove(served)
            turns_of_others.pop((served.task, served.priority))
            for (_, priority), turns in turns_of_others.items():
                if priority == served.priority:
                    assert served.task not in turns
                    turns.append(served.task)
            if any((each.task, each.priority) == (served.task, served.priority) for each in waiting):
                turns_of_others[served.task, served.priority] = []


# --- deadlines --------------------------------------------------------------------------------------------


def test_of_a_task_the_earliest_deadline_goes_first_and_of_equal_ones_who_came_first() -> None:
    late, early, as_early = Item("a", 0, deadline=3), Item("a", 1, deadline=2), Item("a", 2, deadline=2)
    assert list(drain(scheduler_with(late, early, as_early))) == [early, as_early, late]


def test_an_early_deadline_is_no_reason_to_pass_another_task() -> None:
    patient, hurried = Item("a", 0, deadline=100), Item("b", 1, deadline=1)
    assert take(scheduler_with(patient, hurried)) == patient


@given(crowds())
def test_each_tasks_items_go_by_priority_deadline_and_arrival(crowd: list[Item]) -> None:
    scheduler = scheduler_with(*crowd)
    expected = {task: sorted((item for item in crowd if item.task == task), key=_rank) for task in TASKS}
    taken = list(drain(scheduler))
    assert {task: [item for item in taken if item.task == task] for task in TASKS} == expected


def _rank(item: Item) -> tuple[int, float, int]:
    return item.rank


# --- verdicts ---------------------------------------------------------------------------------------------


def test_a_task_that_is_full_lets_others_go_ahead() -> None:
    first, second, other = items = line("aab")
    scheduler = scheduler_with(*items)
    assert scheduler.take_next(refuse(Verdict.TASK_IS_FULL, first, second)) == other
    assert scheduler.take_next(refuse(Verdict.TASK_IS_FULL, first, second)) is None
    assert len(scheduler) == 2
    assert list(drain(scheduler)) == [first, second]


def test_a_task_that_was_full_keeps_its_turn() -> None:
    first, second, other, another = items = line("aabb")
    scheduler = scheduler_with(*items)
    assert scheduler.take_next(refuse(Verdict.TASK_IS_FULL, first, second)) == other
    assert list(drain(scheduler)) == [first, another, second]


def test_nobody_goes_ahead_of_one_for_which_there_is_no_room_on_the_server() -> None:
    large, small = Item("a", 0, priority=6), Item("b", 1)
    scheduler = scheduler_with(large, small)
    assert scheduler.take_next(refuse(Verdict.SERVER_IS_FULL, large)) is None
    assert scheduler.take_next(start) == large
    assert scheduler.take_next(start) == small


def test_a_full_task_is_asked_about_once_whatever_it_has_waiting() -> None:
    urgent, behind, lower = Item("a", 0, priority=9), Item("a", 1, priority=9), Item("a", 2)
    other = Item("b", 3)
    asked: list[Item] = []

    def judge(item: Item) -> Verdict:
        asked.append(item)
        return Verdict.TASK_IS_FULL

    assert scheduler_with(urgent, behind, lower, other).take_next(judge) is None
    assert asked == [urgent, other]


# --- leaving ----------------------------------------------------------------------------------------------


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


def test_what_left_the_line_does_not_pile_up_in_it() -> None:
    patient = Item("a", -1, deadline=-1)
    scheduler = scheduler_with(patient)
    for number in range(10_000):
        item = Item("a", number)
        add(scheduler, item)
        assert scheduler.remove("a", item)
        assert len(scheduler._rings[DEFAULT_PRIORITY]["a"]._heap) <= FEW + 3
    assert scheduler.remove("a", patient)
    assert not scheduler._rings
    assert not scheduler._places


class Line(RuleBasedStateMachine):
    """The scheduler against a line that is as simple as can be."""

    @initialize()
    def open(self) -> None:
        self.scheduler = scheduler_with()
        self.items: list[Item] = []
        self.rings: dict[int, list[str]] = {priority: [] for priority in range(10)}
        self.come = 0

    @rule(task=tasks, deadline=deadlines, priority=priorities)
    def comes(self, task: str, deadline: float, priority: int) -> None:
        item = Item(task, self.come, deadline, priority)
        self.come += 1
        add(self.scheduler, item)
        self.items.append(item)
        if task not in self.rings[priority]:
            self.rings[priority].append(task)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.items))
        assert self.scheduler.remove(item.task, item)
        assert not self.scheduler.remove(item.task, item)
        self.items.remove(item)
        if not self.waiting(item.task, item.priority):
            self.rings[item.priority].remove(item.task)

    @rule(full=st.sets(tasks), crowded=st.booleans())
    def starts(self, full: set[str], crowded: bool) -> None:
        def judge(item: Item) -> Verdict:
            if item.task in full:
                return Verdict.TASK_IS_FULL
            return Verdict.SERVER_IS_FULL if crowded else Verdict.START

        expected = None if crowded else self.whose_turn(full)
        assert self.scheduler.take_next(judge) == expected
        if expected is not None:
            ring = self.rings[expected.priority]
            self.items.remove(expected)
            ring.remove(expected.task)
            if self.waiting(expected.task, expected.priority):
                ring.append(expected.task)

    def whose_turn(self, full: set[str]) -> Item | None:
        for priority in reversed(range(10)):
            for task in self.rings[priority]:
                if task not in full:
                    return self.waiting(task, priority)[0]
        return None

    def waiting(self, task: str, priority: int) -> list[Item]:
        return sorted((i for i in self.items if (i.task, i.priority) == (task, priority)), key=_rank)

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        places = self.scheduler._places
        there = {(task, item) for task in places for item in places[task]}
        assert there == {(item.task, item) for item in self.items}
        assert len(self.scheduler) == len(self.items)


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=50, stateful_step_count=40)
