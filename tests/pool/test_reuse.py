"""Sandboxes that serve again: for whom, how often, how long, and which of them goes first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spear_wasm.engine import engine
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.limits import Limits
from spear_wasm.pool import Capacity, InstancePool, PoolTerms, Use
from spear_wasm.pool.instance_pool import LIFETIME_JITTER
from spear_wasm.scheduling.policies import SchedulingPolicy
from tests.pool.preparing import CountedSandbox, Preparer, prepare
from tests.workshop import LIMITS, Workshop, call

USE = Use(seconds=0.001, cpu_ns=1000)
AGAIN = PoolTerms(ceiling=3, reuse=True, max_uses=10, max_lifetime=100, max_idle=20)


class Clock:
    """Time goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def preparer() -> Preparer:
    return Preparer()


@pytest.fixture
def capacity() -> Iterator[Capacity]:
    capacity = Capacity(10, 10 * LIMITS.max_memory_bytes)
    yield capacity
    assert (capacity.taken, capacity.memory_taken) == (0, 0)


NewPool = Callable[..., InstancePool]


@pytest.fixture
def new_pool(
    workshop: Workshop,
    capacity: Capacity,
    preparer: Preparer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[NewPool]:
    monkeypatch.setattr(engine, "Sandbox", CountedSandbox)
    with contextlib.ExitStack() as closing:

        def new(terms: PoolTerms = AGAIN, source: str = "canary") -> InstancePool:
            pool = InstancePool(workshop.link(source), LIMITS, terms, capacity, preparer, clock=clock)
            closing.callback(preparer.fail_all)
            closing.callback(pool.close)
            return pool

        yield new
    left = set(CountedSandbox.open)
    CountedSandbox.open.clear()
    assert not left


def take(pool: InstancePool, limits: Limits = LIMITS, *, fresh: bool = False) -> GuestSandbox:
    """One that is ready for a call."""
    sandbox = pool.take(limits, fresh=fresh)
    if not sandbox.prepared:
        prepare(sandbox)
        sandbox.prepared = True
    return sandbox


def give_back(pool: InstancePool, sandbox: GuestSandbox, use: Use | None = USE) -> bool:
    """As a call's end does it."""
    kept = pool.give_back(sandbox, use)
    if not kept:
        sandbox.close()
    return kept


def serve(pool: InstancePool, use: Use | None = USE) -> GuestSandbox:
    """One whole call; the sandbox that served it."""
    sandbox = take(pool)
    give_back(pool, sandbox, use)
    return sandbox


# --- who is served ----------------------------------------------------------------------------------------


def test_a_call_finds_what_the_one_before_it_left(new_pool: NewPool) -> None:
    pool = new_pool()
    for number in range(1, 6):
        sandbox = take(pool)
        assert call(sandbox, "leave", number) == (number - 1,)
        assert give_back(pool, sandbox)
    stats = pool.stats()
    assert (stats.ready, stats.busy, stats.served_new, stats.served_ready) == (1, 0, 1, 4)


def test_a_sandbox_serves_one_call_at_a_time(new_pool: NewPool) -> None:
    pool = new_pool()
    serve(pool)
    first, second = take(pool), take(pool)
    assert first is not second
    assert call(second, "found") == (0,)
    for sandbox in (first, second):
        assert give_back(pool, sandbox)
    assert pool.stats().ready == 2


def test_a_sandbox_whose_call_did_not_end_well_serves_no_other(new_pool: NewPool) -> None:
    pool = new_pool()
    failed = serve(pool, use=None)
    assert pool.stats().ready == 0
    assert take_and_return(pool) is not failed


def take_and_return(pool: InstancePool) -> GuestSandbox:
    sandbox = take(pool)
    assert call(sandbox, "found") == (0,)
    give_back(pool, sandbox)
    return sandbox


def test_a_call_that_insists_on_a_new_sandbox_finds_nothing_and_leaves_nothing(new_pool: NewPool) -> None:
    pool = new_pool()
    before = serve(pool)
    sandbox = take(pool, fresh=True)
    assert sandbox is not before
    assert call(sandbox, "leave", 5) == (0,)
    assert not give_back(pool, sandbox)
    assert serve(pool) is before


@pytest.mark.parametrize("tighter", [{"max_memory_bytes": 1 << 20}, {"max_table_elements": 10}])
def test_so_does_a_call_with_tighter_limits_than_a_sandbox_may_have_outgrown(
    new_pool: NewPool, tighter: dict[str, int]
) -> None:
    pool = new_pool()
    before = serve(pool)
    sandbox = take(pool, replace(LIMITS, **tighter))
    assert sandbox is not before
    assert not give_back(pool, sandbox)
    assert serve(pool) is before


def test_pools_share_no_sandboxes(new_pool: NewPool) -> None:
    mine, theirs = new_pool(), new_pool()
    sandbox = take(mine)
    call(sandbox, "leave", 1)
    give_back(mine, sandbox)
    other = take(theirs)
    assert call(other, "found") == (0,)
    give_back(theirs, other)


# --- how often and how long -------------------------------------------------------------------------------


@pytest.mark.parametrize("uses", [1, 2, 5])
def test_a_sandbox_serves_so_many_calls_and_no_more(new_pool: NewPool, uses: int) -> None:
    pool = new_pool(replace(AGAIN, max_uses=uses))
    served = [serve(pool) for _ in range(3 * uses)]
    assert [served.count(each) for each in dict.fromkeys(served)] == [uses] * 3


def test_a_sandbox_that_is_too_old_serves_no_more_and_is_closed(new_pool: NewPool, clock: Clock) -> None:
    pool = new_pool(replace(AGAIN, max_idle=1000, max_lifetime=100))
    old = serve(pool)
    clock.now += 100 * (1 - LIFETIME_JITTER) - 1
    assert serve(pool) is old
    clock.now += 100 * LIFETIME_JITTER + 1
    assert serve(pool) is not old
    assert old in CountedSandbox.open
    pool.upkeep()
    assert old not in CountedSandbox.open


def test_one_that_grows_too_old_while_it_serves_is_not_kept(new_pool: NewPool, clock: Clock) -> None:
    pool = new_pool()
    sandbox = take(pool)
    clock.now += 100
    assert not give_back(pool, sandbox)


def test_sandboxes_made_at_once_do_not_end_at_once(new_pool: NewPool, clock: Clock) -> None:
    pool = new_pool(replace(AGAIN, max_idle=1000))
    for sandbox in [take(pool) for _ in range(3)]:
        give_back(pool, sandbox)
    lives = {each.dies - each.born for each in pool._idle.values()}
    assert len(lives) == 3
    assert all(100 * (1 - LIFETIME_JITTER) <= life <= 100 for life in lives)


def test_a_sandbox_that_was_idle_too_long_serves_no_more_and_is_closed(
    new_pool: NewPool, clock: Clock
) -> None:
    pool = new_pool()
    idle = serve(pool)
    for _ in range(3):
        clock.now += 19
        assert serve(pool) is idle
    clock.now += 20
    pool.upkeep()
    assert pool.stats().ready == 0
    assert idle not in CountedSandbox.open
    assert serve(pool) is not idle


def test_no_more_are_kept_than_the_task_may_have(new_pool: NewPool) -> None:
    pool = new_pool()
    kept = [give_back(pool, sandbox) for sandbox in [take(pool) for _ in range(5)]]
    assert kept == [True, True, True, False, False]


def test_none_is_kept_for_which_the_server_has_no_room(
    new_pool: NewPool, capacity: Capacity, preparer: Preparer
) -> None:
    pool = new_pool()
    greedy = new_pool(PoolTerms(floor=10, ceiling=10))
    assert not give_back(pool, take(pool))
    greedy.close()
    preparer.fail_all()
    assert give_back(pool, take(pool))


def test_a_pool_that_was_closed_keeps_nothing_that_comes_back(new_pool: NewPool) -> None:
    pool = new_pool()
    idle, busy = take(pool), take(pool)
    give_back(pool, idle)
    pool.close()
    assert idle not in CountedSandbox.open
    assert busy in CountedSandbox.open
    assert not give_back(pool, busy)
    assert pool.stats().busy == 0


def test_what_a_reused_sandbox_lost_is_made_ahead_again(new_pool: NewPool, preparer: Preparer) -> None:
    pool = new_pool(replace(AGAIN, floor=2))
    preparer.finish_all()
    sandbox = take(pool)
    assert not preparer.waiting, "one that serves now serves again"
    give_back(pool, sandbox, None)
    assert len(preparer.waiting) == 1


# --- what is fresh in each call ---------------------------------------------------------------------------


class Notes:
    """Reads along."""

    largest = 100

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def room_for(self, size: int) -> None:
        return None

    def put(self, message: bytes) -> None:
        self.messages.append(message)


def reads_along(sandbox: GuestSandbox) -> bool:
    return sandbox.reader is not None


def test_neither_log_nor_reader_nor_counts_go_on_from_call_to_call(new_pool: NewPool) -> None:
    pool = new_pool()
    limits = replace(LIMITS, max_log_bytes=4, max_output_bytes=4)
    for number in range(1, 4):
        sandbox, notes = take(pool, limits), Notes()
        sandbox.reader = notes
        assert call(sandbox, "leave", number) == (number - 1,)
        mark = number.to_bytes(4, "little")
        usage = sandbox.usage(0)
        assert (usage.stderr, usage.output_truncated, notes.messages) == (mark, False, [mark])
        assert sandbox.output_room == 0
        give_back(pool, sandbox)
        assert not reads_along(sandbox)
        assert sandbox.usage(0).stderr == b""
    assert pool.stats().served_ready == 2


def test_each_call_has_a_full_tank(workshop: Workshop, preparer: Preparer) -> None:
    limits = replace(LIMITS, max_fuel=100_000)
    capacity = Capacity(3, 3 * LIMITS.max_memory_bytes)
    pool = InstancePool(workshop.link("canary", metered=True), limits, AGAIN, capacity, preparer)
    used = []
    for _ in range(3):
        sandbox = take(pool, limits)
        sandbox.arm(limits)  # what preparing took the first time is not to count here
        call(sandbox, "burn", 10_000)
        used.append(sandbox.usage(0).fuel)
        give_back(pool, sandbox)
    assert len(set(used)) == 1
    assert used[0] is not None
    assert used[0] > limits.max_fuel / 3
    pool.close()


def test_memory_and_tables_that_grew_stay_grown_and_stay_bounded(new_pool: NewPool) -> None:
    pool = new_pool()
    for grown in range(3):
        sandbox = take(pool)
        assert call(sandbox, "grow") == ((1 + grown) * 100 + 4 + grown,)
        give_back(pool, sandbox)
    sandbox = take(pool, replace(LIMITS, max_log_bytes=1))
    assert sandbox.memory_bytes() == 4 << 16
    give_back(pool, sandbox)


# --- which one goes first ---------------------------------------------------------------------------------


def idle_pool(new_pool: NewPool, policy: SchedulingPolicy) -> tuple[InstancePool, list[GuestSandbox]]:
    """A pool with three idle sandboxes, in the order in which they came back."""
    pool = new_pool(replace(AGAIN, scheduling=policy, max_uses=1000))
    sandboxes = [take(pool) for _ in range(3)]
    for sandbox in sandboxes:
        give_back(pool, sandbox)
    return pool, sandboxes


def test_where_all_are_alike_the_last_that_served_goes_first_and_the_others_may_go(
    new_pool: NewPool, clock: Clock
) -> None:
    pool, (*others, last) = idle_pool(new_pool, SchedulingPolicy.LEAST_LOADED)
    for _ in range(3):
        clock.now += 10
        assert serve(pool) is last
    pool.upkeep()
    assert not CountedSandbox.open & set(others)


def test_turns_go_round(new_pool: NewPool) -> None:
    pool, sandboxes = idle_pool(new_pool, SchedulingPolicy.ROUND_ROBIN)
    served = [serve(pool) for _ in range(6)]
    assert set(served[:3]) == set(sandboxes)
    assert served[3:] == served[:3]


def test_the_one_that_answered_soonest_goes_first(new_pool: NewPool) -> None:
    pool, (slow, quick, middle) = idle_pool(new_pool, SchedulingPolicy.LEAST_RESPONSE_TIME)
    times = {slow: 3.0, quick: 1.0, middle: 2.0}
    taken = [take(pool) for _ in times]
    for sandbox in taken:
        give_back(pool, sandbox, Use(times[sandbox], cpu_ns=0))
    order = [take(pool) for _ in times]
    assert order == [quick, middle, slow]
    for sandbox in order:
        give_back(pool, sandbox)


def test_the_one_with_most_uses_left_has_most_turns(new_pool: NewPool) -> None:
    pool, _ = idle_pool(new_pool, SchedulingPolicy.WEIGHTED_ROUND_ROBIN)
    worn = serve(pool)
    for each in pool._idle.values():
        each.uses = 900 if each.sandbox is worn else 0
    served = [serve(pool) for _ in range(42)]
    assert served.count(worn) <= 3
    assert min(served.count(each) for each in set(served) - {worn}) >= 19


@pytest.mark.parametrize("scarce", ["cpu", "memory"])
def test_the_one_that_used_least_goes_first(new_pool: NewPool, clock: Clock, scarce: str) -> None:
    pool, (greedy, modest, middle) = idle_pool(new_pool, SchedulingPolicy.RESOURCE_BASED)
    needs = {greedy: 3, modest: 0, middle: 1}
    clock.now += 10
    for sandbox in [take(pool) for _ in needs]:
        cpu_ns = 0
        if scarce == "cpu":
            cpu_ns = needs[sandbox] * 10**9
        else:
            for _ in range(needs[sandbox] * 20):
                call(sandbox, "grow")
        give_back(pool, sandbox, Use(0.001, cpu_ns))
    order = [take(pool) for _ in needs]
    assert order == [modest, middle, greedy]
    for sandbox in order:
        give_back(pool, sandbox)


@pytest.mark.parametrize("policy", SchedulingPolicy)
def test_every_policy_serves_every_call_with_an_idle_one_while_there_is_one(
    new_pool: NewPool, policy: SchedulingPolicy
) -> None:
    pool, sandboxes = idle_pool(new_pool, policy)
    for _ in range(20):
        taken = [take(pool) for _ in range(3)]
        assert set(taken) == set(sandboxes)
        for sandbox in taken:
            give_back(pool, sandbox)
    assert pool.stats().served_new == 3


# --- leaks ------------------------------------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),  # whose call
        st.sampled_from(["ends", "ends", "ends", "fails", "insists", "goes on"]),
        st.integers(min_value=0, max_value=15),  # seconds until the next one
    ),
    max_size=40,
)
RANGES = st.builds(
    PoolTerms,
    floor=st.integers(0, 1),
    ceiling=st.integers(1, 3),
    reuse=st.booleans(),
    max_uses=st.integers(1, 4),
    max_lifetime=st.integers(1, 60),
    max_idle=st.integers(1, 30),
    scheduling=st.sampled_from(SchedulingPolicy),
)


class Life:
    """What a sandbox may be expected to be like."""

    def __init__(self, owner: int, born: float) -> None:
        self.owner = owner
        self.born = born
        self.mark = 0
        self.uses = 0
        self.served_until = born


class Neighbours:
    """Three tasks on terms of their own; every call leaves its mark, and is asked what it found."""

    def __init__(self, pools: list[InstancePool], terms: Sequence[PoolTerms], clock: Clock) -> None:
        self._pools = pools
        self._terms = terms
        self._clock = clock
        self._lives: dict[GuestSandbox, Life] = {}
        self._running: list[GuestSandbox] = []

    def call(self, owner: int, way: str, mark: int) -> None:
        sandbox = take(self._pools[owner], fresh=way == "insists")
        life = self._lives.setdefault(sandbox, Life(owner, self._clock.now))
        assert call(sandbox, "leave", mark) == (life.mark,)
        assert life.owner == owner
        if life.uses:
            terms = self._terms[owner]
            assert terms.reuse
            assert way != "insists"
            assert life.uses < terms.max_uses
            assert self._clock.now - life.served_until < terms.max_idle
            assert self._clock.now - life.born < terms.max_lifetime
        life.mark, life.uses = mark, life.uses + 1
        self._running.append(sandbox)
        if way != "goes on":
            self.end_one(None if way == "fails" else USE)

    def end_one(self, use: Use | None = USE) -> None:
        if self._running:
            sandbox = self._running.pop()
            life = self._lives[sandbox]
            life.served_until = self._clock.now
            if not give_back(self._pools[life.owner], sandbox, use):
                del self._lives[sandbox]

    def end_all(self) -> None:
        while self._running:
            self.end_one()
        for pool in self._pools:
            assert pool.stats().busy == 0
            pool.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(terms=st.tuples(RANGES, RANGES, RANGES), calls=CALLS)
def test_whatever_is_reused_a_call_finds_the_mark_of_the_last_good_call_in_there_or_none(
    new_pool: NewPool,
    preparer: Preparer,
    clock: Clock,
    terms: tuple[PoolTerms, PoolTerms, PoolTerms],
    calls: list[tuple[int, str, int]],
) -> None:
    pools = [new_pool(each) for each in terms]
    neighbours = Neighbours(pools, terms, clock)
    for mark, (owner, way, pause) in enumerate(calls, 1):
        neighbours.call(owner, way, mark)
        clock.now += pause
        preparer.finish_all()
        if pause % 3 == 0:
            for each in pools:
                each.upkeep()
        if pause % 5 == 0:
            neighbours.end_one()
    neighbours.end_all()
    preparer.fail_all()
    assert not CountedSandbox.open
