"""The room that tasks share: never more than there is, and always some for a task that has none."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spear_wasm.scheduling import DEFAULT_PRIORITY, Allowance, Holding, Room, Verdict
from spear_wasm.scheduling.fair_share import MOST_TO_FREE, is_at_share

LOTS = 1 << 40


def room_of(places: int, memory_bytes: int) -> Room:
    return Room(Allowance(places), Allowance(memory_bytes))


def take(room: Room, holding: Holding, memory_bytes: int = 0, priority: int = DEFAULT_PRIORITY) -> bool:
    return room.try_take(holding, memory_bytes, priority) is Verdict.START


def fill(room: Room, holding: Holding, memory_bytes: int = 0, priority: int = DEFAULT_PRIORITY) -> int:
    """Take all that a task may have; how much that was."""
    count = 0
    while take(room, holding, memory_bytes, priority):
        count += 1
    return count


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_who_holds_nothing_is_never_at_its_share_and_more_to_share_never_makes_it_smaller(
    held: int, free: int
) -> None:
    assert not is_at_share(0, free)
    assert is_at_share(held, free) >= is_at_share(held, free + 1)
    assert is_at_share(held, free) <= is_at_share(held + 1, free)


@given(st.integers(1, 1000))
def test_a_task_that_is_alone_has_three_quarters_of_the_places_and_all_of_a_few(places: int) -> None:
    room, alone = room_of(places, 0), Holding()
    assert fill(room, alone) == (places if places < 4 else -(-3 * places // 4))
    assert room.try_take(alone, 0, DEFAULT_PRIORITY) is Verdict.TASK_IS_FULL


@given(st.integers(4, 1000))
def test_beside_a_flood_a_task_that_has_nothing_begins_at_once(places: int) -> None:
    room = room_of(places, 0)
    fill(room, Holding())
    assert take(room, Holding())


@given(st.integers(4, 64), st.integers(1, 64))
def test_a_flood_leaves_memory_as_well(executions: int, each_bytes: int) -> None:
    room, flood = room_of(LOTS, executions * each_bytes), Holding()
    assert fill(room, flood, each_bytes) == -(-3 * executions // 4)
    assert take(room, Holding(), each_bytes)


@given(st.integers(1, 6), st.integers(8, 60))
def test_once_what_they_began_with_has_ended_floods_have_equal_shares_and_leave_one(
    tasks: int, for_each: int
) -> None:
    places = tasks * for_each
    room, floods = room_of(places, 0), [Holding() for _ in range(tasks)]
    running = deque(holding for holding in floods for _ in range(fill(room, holding)))
    for _ in range(20 * places):
        room.give_back(running[0], 0, DEFAULT_PRIORITY)
        running.popleft()
        while (begun := next((each for each in floods if take(room, each)), None)) is not None:
            running.append(begun)
            floods.append(floods.pop(floods.index(begun)))
    share = places * MOST_TO_FREE / (1 + MOST_TO_FREE * tasks)
    assert all(abs(holding.places - share) <= max(2, share / 4) for holding in floods)
    assert take(room, Holding())


def test_however_long_a_floods_executions_are_another_task_has_more_than_one_place() -> None:
    room, long, short = room_of(100, 0), Holding(), Holding()
    assert fill(room, long) == 75
    assert fill(room, short) == 19


# --- priorities -------------------------------------------------------------------------------------------


@given(st.integers(4, 200), st.integers(0, 200))
def test_what_lower_priorities_hold_makes_nobodys_share_smaller(places: int, lower: int) -> None:
    room, low, high = room_of(places, 0), Holding(), Holding()
    begun = sum(take(room, low, priority=1) for _ in range(lower))
    fill(room, high, priority=9)
    for _ in range(begun):
        room.give_back(low, 0, 1)
        fill(room, high, priority=9)
    assert high.places == -(-3 * places // 4)


def test_what_higher_priorities_hold_does() -> None:
    room, high, low = room_of(100, 0), Holding(), Holding()
    assert fill(room, high, priority=9) == 75
    assert fill(room, low, priority=1) == 19


def test_one_that_may_have_more_and_finds_no_place_is_waited_for() -> None:
    room, low, high = room_of(4, 0), Holding(), Holding()
    assert (fill(room, low, priority=1), fill(room, Holding(), priority=1)) == (3, 1)
    assert room.try_take(high, 0, 9) is Verdict.SERVER_IS_FULL
    room.give_back(low, 0, 1)
    assert take(room, high, priority=9)


def test_one_that_needs_more_memory_than_is_free_is_waited_for() -> None:
    room, small, large = room_of(10, 100), Holding(), Holding()
    assert take(room, small, 60)
    assert room.try_take(large, 50, DEFAULT_PRIORITY) is Verdict.SERVER_IS_FULL
    room.give_back(small, 60, DEFAULT_PRIORITY)
    assert take(room, large, 50)


# --- the books --------------------------------------------------------------------------------------------

PLACES, MEMORY = 20, 100


class Books(RuleBasedStateMachine):
    """The room against a list of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.room = room_of(PLACES, MEMORY)
        self.holdings = [Holding() for _ in range(4)]
        self.taken: list[tuple[Holding, int, int]] = []

    @rule(task=st.integers(0, 3), memory=st.integers(0, 40), priority=st.integers(0, 9))
    def takes(self, task: int, memory: int, priority: int) -> None:
        holding = self.holdings[task]
        free_memory = MEMORY - sum(memory for _, memory, _ in self.taken)
        if take(self.room, holding, memory, priority):
            assert memory <= free_memory
            self.taken.append((holding, memory, priority))
        else:
            assert self.taken, "a room that is empty has room"

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.taken) - 1))
        self.room.give_back(*self.taken.pop(which))

    @invariant()
    def nothing_is_lost_or_given_twice(self) -> None:
        assert self.room.places_taken == len(self.taken) <= PLACES
        assert self.room.memory_taken == sum(memory for _, memory, _ in self.taken) <= MEMORY
        for holding in self.holdings:
            held = [memory for who, memory, _ in self.taken if who is holding]
            assert (holding.places, holding.memory_bytes) == (len(held), sum(held))


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=50, stateful_step_count=40)
