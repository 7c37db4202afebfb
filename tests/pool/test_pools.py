"""Where sandboxes come from: the same promises from every pool, and those of the one that keeps some ready."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from spear_wasm.config import InstancePoolConfig
from spear_wasm.engine import engine
from spear_wasm.engine.guest_sandbox import GuestSandbox
from spear_wasm.limits import Limits
from spear_wasm.pool import (
    Capacity,
    InstancePool,
    NullPool,
    Pool,
    PoolFactory,
    PoolTerms,
    Use,
)
from spear_wasm.pool.scaling import Scaling
from tests.pool.preparing import CountedSandbox, Preparer, prepare
from tests.workshop import LIMITS, Workshop, at_once, call

SIZE = 3

MakePool = Callable[..., Pool]


@pytest.fixture(autouse=True)
def _every_sandbox_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine, "Sandbox", CountedSandbox)
    yield
    left = set(CountedSandbox.open)
    CountedSandbox.open.clear()
    assert not left


@pytest.fixture
def capacity() -> Iterator[Capacity]:
    capacity = Capacity(10, 10 * LIMITS.max_memory_bytes)
    yield capacity
    assert (capacity.taken, capacity.memory_taken) == (0, 0)


@pytest.fixture
def preparer() -> Preparer:
    return Preparer()


@pytest.fixture
def new_instance_pool(
    workshop: Workshop, capacity: Capacity, preparer: Preparer
) -> Iterator[Callable[..., InstancePool]]:
    with contextlib.ExitStack() as closing:

        def new(
            source: str = "initialize", limits: Limits = LIMITS, size: int = SIZE, *, metered: bool = False
        ) -> InstancePool:
            terms = PoolTerms(floor=size, ceiling=size)
            pool = InstancePool(workshop.link(source, metered=metered), limits, terms, capacity, preparer)
            closing.callback(preparer.fail_all)
            closing.callback(pool.close)
            return pool

        yield new


@pytest.fixture(params=["instance_pool", "instance_pool_unready", "null_pool"])
def new_pool(
    request: pytest.FixtureRequest,
    workshop: Workshop,
    preparer: Preparer,
    new_instance_pool: Callable[..., InstancePool],
) -> MakePool:
    """Every kind of pool; one that keeps sandboxes ready with all of them ready, and with none so far."""
    if request.param == "null_pool":
        return lambda source="initialize", metered=False: NullPool(workshop.link(source, metered=metered))
    if request.param == "instance_pool_unready":
        return new_instance_pool

    def new(source: str = "initialize", *, metered: bool = False) -> Pool:
        pool = new_instance_pool(source, metered=metered)
        preparer.finish_all()
        return pool

    return new


USE = Use(seconds=0.001, cpu_ns=1000)


@contextlib.contextmanager
def handed_out(pool: Pool, limits: Limits = LIMITS, *, fresh: bool = False) -> Iterator[GuestSandbox]:
    """A sandbox as the pool hands it out, given back at the end as one whose call ended well."""
    sandbox = pool.take(limits, fresh=fresh)
    try:
        yield sandbox
    finally:
        assert not pool.give_back(sandbox, USE), "nobody asked for reuse"
        sandbox.close()


@contextlib.contextmanager
def taken(pool: Pool, limits: Limits = LIMITS, *, fresh: bool = False) -> Iterator[GuestSandbox]:
    """The same, ready for a call."""
    with handed_out(pool, limits, fresh=fresh) as sandbox:
        if not sandbox.prepared:
            prepare(sandbox)
        yield sandbox


def figures(pool: Pool) -> tuple[int, int, int]:
    """How many are ready, and how many calls found one that was ready and one that was not."""
    stats = pool.stats()
    return stats.ready, stats.served_ready, stats.served_new


# --- every pool -------------------------------------------------------------------------------------------


def test_a_guest_never_sees_what_another_left_behind(new_pool: MakePool) -> None:
    pool = new_pool()
    for _ in range(2 * SIZE):
        with taken(pool) as sandbox:
            assert call(sandbox, "bump") == (8,)
            assert call(sandbox, "bump_memory") == (1,)


def test_no_sandbox_is_handed_out_twice(new_pool: MakePool) -> None:
    pool = new_pool()
    with contextlib.ExitStack() as open_ones:
        sandboxes = [open_ones.enter_context(taken(pool)) for _ in range(2 * SIZE)]
        assert len(set(sandboxes)) == len(sandboxes)


def test_callers_on_many_threads_get_sandboxes_of_their_own(new_pool: MakePool) -> None:
    pool = new_pool()
    sandboxes = at_once([partial(pool.take, LIMITS, fresh=False)] * 8)
    assert len(set(sandboxes)) == 8
    for sandbox in sandboxes:
        pool.give_back(sandbox, None)
        sandbox.close()
    stats = pool.stats()
    assert stats.served_ready + stats.served_new == 8


@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        replace(LIMITS, max_memory_bytes=1 << 20),
        replace(LIMITS, max_log_bytes=10),
        replace(LIMITS, max_table_elements=100),
    ],
    ids=["the task's", "less memory", "less log", "smaller tables"],
)
def test_the_limits_of_the_call_are_in_force(new_pool: MakePool, limits: Limits) -> None:
    with taken(new_pool("hostile"), limits) as sandbox:
        assert sandbox.limits == limits
        assert call(sandbox, "grow_forever") == (limits.max_memory_bytes >> 16,)
        (elements,) = call(sandbox, "table_grow_forever")
        assert elements <= limits.max_table_elements


def test_the_tank_is_full_whatever_preparing_took(new_pool: MakePool) -> None:
    limits = replace(LIMITS, max_fuel=1000)
    pool = new_pool(metered=True)
    with handed_out(pool, limits) as sandbox:
        assert sandbox.usage(0).fuel == 0


def test_a_fresh_sandbox_is_one_that_was_not_made_ahead(new_pool: MakePool) -> None:
    pool = new_pool()
    before = set(CountedSandbox.open)
    with handed_out(pool, fresh=True) as sandbox:
        assert sandbox not in before
        assert not sandbox.prepared
    assert pool.stats().served_new == 1


def test_a_closed_pool_still_serves_and_has_nothing_ready(new_pool: MakePool) -> None:
    pool = new_pool()
    pool.close()
    pool.close()
    assert pool.stats().ready == 0
    with taken(pool) as sandbox:
        assert call(sandbox, "bump") == (8,)
    assert figures(pool) == (0, 0, 1)


def test_sandboxes_that_were_taken_stay_with_their_takers_when_the_pool_closes(new_pool: MakePool) -> None:
    pool = new_pool()
    with taken(pool) as sandbox:
        pool.close()
        assert call(sandbox, "bump") == (8,)


# --- the pool that keeps some ready -----------------------------------------------------------------------


def test_a_pool_fills_itself_off_the_call_path_up_to_its_size(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    pool = new_instance_pool()
    assert figures(pool) == (0, 0, 0)
    assert len(preparer.waiting) == capacity.taken == SIZE
    preparer.finish_all()
    assert pool.stats().ready == capacity.taken == SIZE


def test_one_that_is_taken_is_replaced_off_the_call_path(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer
) -> None:
    pool = new_instance_pool()
    preparer.finish_all()
    with taken(pool):
        assert figures(pool) == (SIZE - 1, 1, 0)
        assert len(preparer.waiting) == 1
        preparer.finish_one()
        assert pool.stats().ready == SIZE


def test_ready_sandboxes_are_prepared_before_they_are_taken(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer
) -> None:
    pool = new_instance_pool()
    preparer.finish_all()
    with handed_out(pool) as sandbox:
        assert sandbox.prepared
        assert call(sandbox, "get") == (7,)


def test_nobody_waits_for_a_sandbox_that_is_being_prepared(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer
) -> None:
    pool = new_instance_pool()
    with taken(pool):
        assert figures(pool) == (0, 0, 1)
        assert len(preparer.waiting) == SIZE


@pytest.mark.parametrize(
    "limits",
    [replace(LIMITS, max_memory_bytes=1 << 20), replace(LIMITS, max_table_elements=10)],
    ids=["memory", "tables"],
)
def test_a_sandbox_that_may_have_outgrown_a_calls_limits_already_does_not_serve_it(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, limits: Limits
) -> None:
    pool = new_instance_pool()
    preparer.finish_all()
    with taken(pool, limits):
        assert figures(pool) == (SIZE, 0, 1)


def test_where_preparing_fails_the_pool_waits_for_the_next_call(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    pool = new_instance_pool()
    preparer.fail_all()
    assert len(preparer.waiting) == capacity.taken == 0
    with taken(pool):
        assert len(preparer.waiting) == SIZE
        preparer.fail_all()
        assert len(preparer.waiting) == 0
    assert figures(pool) == (0, 0, 1)


def test_a_pool_recovers_when_preparing_goes_well_again(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer
) -> None:
    pool = new_instance_pool()
    preparer.fail_all()
    with taken(pool):
        preparer.finish_all()
    with taken(pool):
        assert pool.stats().served_ready == 1


# --- capacity ---------------------------------------------------------------------------------------------


def test_the_room_of_a_ready_sandbox_goes_back_when_it_is_taken(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    pool = new_instance_pool(size=1)
    preparer.finish_all()
    with taken(pool):
        preparer.fail_all()
        assert capacity.taken == capacity.memory_taken == 0


def test_what_waits_counts_with_the_memory_that_it_has_and_what_is_prepared_with_what_it_may_get(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    new_instance_pool(size=1)
    assert capacity.memory_taken == LIMITS.max_memory_bytes
    preparer.finish_all()
    assert capacity.memory_taken == 1 << 16  # the one page that the guest begins with


def test_pools_keep_no_more_ready_than_the_server_grants_them_together(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    pools = [new_instance_pool(size=8) for _ in range(2)]
    preparer.finish_all()
    assert [pool.stats().ready for pool in pools] == [8, 2]
    assert capacity.taken == capacity.sandboxes
    with contextlib.ExitStack() as open_ones:
        sandboxes = [open_ones.enter_context(taken(pools[1])) for _ in range(3)]
        assert [call(sandbox, "bump") for sandbox in sandboxes] == [(8,)] * 3
        assert pools[1].stats().served_ready == 2
        preparer.finish_all()
    assert capacity.taken == capacity.sandboxes


def test_memory_is_granted_to_pools_as_well(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    new_instance_pool(limits=replace(LIMITS, max_memory_bytes=4 * LIMITS.max_memory_bytes), size=3)
    assert len(preparer.waiting) == 2
    assert capacity.memory_taken == 8 * LIMITS.max_memory_bytes


def test_what_is_ready_when_a_pool_closes_is_closed_with_it(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    pool = new_instance_pool()
    preparer.finish_all()
    pool.close()
    assert not CountedSandbox.open
    assert capacity.taken == 0


@pytest.mark.parametrize("succeeds", [True, False])
def test_what_is_being_prepared_when_a_pool_closes_is_closed_when_that_ends(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity, succeeds: bool
) -> None:
    pool = new_instance_pool()
    preparer.finish_one()
    pool.close()
    assert capacity.taken == len(CountedSandbox.open) == SIZE - 1
    if succeeds:
        preparer.finish_all()
    else:
        preparer.fail_all()
    assert pool.stats().ready == capacity.taken == len(CountedSandbox.open) == 0


def test_a_pool_that_is_closed_while_callers_take_from_it_leaks_nothing(
    new_instance_pool: Callable[..., InstancePool], preparer: Preparer, capacity: Capacity
) -> None:
    for _ in range(20):
        pool = new_instance_pool()
        preparer.finish_one()

        def take(pool: InstancePool = pool) -> None:
            with handed_out(pool):
                pass

        at_once([take, take, pool.close, take])
        preparer.finish_all()
        assert capacity.taken == len(CountedSandbox.open) == 0


# --- which pool a task gets -------------------------------------------------------------------------------


def test_only_a_task_that_asks_for_it_gets_a_pool_that_keeps_any(
    workshop: Workshop, preparer: Preparer
) -> None:
    factory = PoolFactory(InstancePoolConfig(max_ready=5, max_ready_per_task=2), 1 << 30)
    linked = workshop.link("initialize")
    terms = [PoolTerms(), PoolTerms(floor=2, ceiling=2), PoolTerms(ceiling=1, reuse=True)]
    pools = [factory.new(linked, LIMITS, each, preparer) for each in terms]
    assert [type(pool) for pool in pools] == [NullPool, InstancePool, InstancePool]
    assert len(preparer.waiting) == 2
    for pool in pools:
        pool.close()
    preparer.fail_all()


def test_all_pools_of_a_factory_share_one_capacity(workshop: Workshop, preparer: Preparer) -> None:
    factory = PoolFactory(InstancePoolConfig(max_ready=3, max_ready_per_task=2), 1 << 30)
    pools = [
        factory.new(workshop.link("initialize"), LIMITS, PoolTerms(floor=2, ceiling=2), preparer)
        for _ in range(2)
    ]
    assert len(preparer.waiting) == 3
    for pool in pools:
        pool.close()
    preparer.fail_all()


# --- upkeep -----------------------------------------------------------------------------------------------


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
def scaled(
    workshop: Workshop, capacity: Capacity, preparer: Preparer, clock: Clock
) -> Iterator[InstancePool]:
    """A pool of one to three, as they were needed within a minute, for ten minutes each."""
    terms = PoolTerms(floor=1, ceiling=3, scaling=Scaling.REACTIVE, max_idle=60, max_lifetime=600)
    pool = InstancePool(workshop.link("initialize"), LIMITS, terms, capacity, preparer, clock=clock)
    yield pool
    pool.close()
    preparer.fail_all()


def prepare_all(preparer: Preparer, clock: Clock, seconds: float = 2) -> None:
    """So many seconds later all are ready."""
    clock.now += seconds
    preparer.finish_all()


def keep_up(pool: InstancePool, clock: Clock, seconds: float = 1) -> None:
    clock.now += seconds
    pool.upkeep()


def test_a_pool_grows_when_more_is_needed_and_shrinks_when_it_is_not(
    scaled: InstancePool, preparer: Preparer, clock: Clock, capacity: Capacity
) -> None:
    prepare_all(preparer, clock)
    with taken(scaled), taken(scaled):
        pass
    prepare_all(preparer, clock)
    assert scaled.stats().ready == 1, "nobody has looked yet"
    keep_up(scaled, clock)
    prepare_all(preparer, clock)
    assert scaled.stats().ready == capacity.taken == 2
    for _ in range(58):
        keep_up(scaled, clock)
    assert scaled.stats().ready == 2
    for _ in range(5):
        keep_up(scaled, clock)
    assert scaled.stats().ready == capacity.taken == len(CountedSandbox.open) == 1


def test_a_pool_grows_no_further_than_it_may(scaled: InstancePool, preparer: Preparer, clock: Clock) -> None:
    prepare_all(preparer, clock)
    with contextlib.ExitStack() as calls:
        for _ in range(10):
            calls.enter_context(taken(scaled))
    keep_up(scaled, clock)
    prepare_all(preparer, clock)
    assert scaled.stats().ready == 3


def test_a_ready_sandbox_that_is_too_old_is_replaced(
    scaled: InstancePool, preparer: Preparer, clock: Clock
) -> None:
    prepare_all(preparer, clock)
    (old,) = CountedSandbox.open
    keep_up(scaled, clock, 600)
    assert old not in CountedSandbox.open
    assert scaled.stats().preparing == 1


@pytest.mark.parametrize(("scaling", "at_hand"), [(Scaling.REACTIVE, 0), (Scaling.PREDICTIVE, 3)])
def test_a_rise_that_comes_at_the_same_time_each_season_finds_sandboxes_at_hand_the_third_time(
    workshop: Workshop,
    capacity: Capacity,
    preparer: Preparer,
    clock: Clock,
    scaling: Scaling,
    at_hand: int,
) -> None:
    season, rise, step = 2880, 1000, 2
    clock.now, found = 0, []
    terms = PoolTerms(ceiling=5, scaling=scaling, max_idle=60, max_lifetime=600, season=season)
    pool = InstancePool(workshop.link("initialize"), LIMITS, terms, capacity, preparer, clock=clock)
    with contextlib.closing(pool):
        with taken(pool):
            pass  # so that it finds out how long it takes to prepare one
        for _ in range(3):
            for second in range(0, season, step):
                if second == rise:
                    before = pool.stats().served_ready
                    with taken(pool), taken(pool), taken(pool):
                        found.append(pool.stats().served_ready - before)
                keep_up(pool, clock, step / 2)
                prepare_all(preparer, clock, step / 2)
    assert found == [0, 0, at_hand]


def test_where_preparing_fails_upkeep_does_not_try_again_either(
    scaled: InstancePool, preparer: Preparer, clock: Clock
) -> None:
    preparer.fail_all()
    for _ in range(5):
        keep_up(scaled, clock)
    assert not preparer.waiting
    assert scaled.stats().failed_preparations == 1
    with taken(scaled):
        assert len(preparer.waiting) == 1


def test_where_there_was_no_room_upkeep_tries_again(
    workshop: Workshop, capacity: Capacity, preparer: Preparer
) -> None:
    terms = PoolTerms(floor=8, ceiling=8)
    first, second = (
        InstancePool(workshop.link("initialize"), LIMITS, terms, capacity, preparer) for _ in range(2)
    )
    preparer.finish_all()
    assert second.stats().ready == 2
    first.close()
    second.upkeep()
    preparer.finish_all()
    assert second.stats().ready == 8
    second.close()


def test_a_closed_pool_needs_no_upkeep(scaled: InstancePool, preparer: Preparer, clock: Clock) -> None:
    prepare_all(preparer, clock)
    scaled.close()
    keep_up(scaled, clock)
    assert not preparer.waiting
    assert not CountedSandbox.open


def test_how_long_sandboxes_were_held_is_added_up(
    scaled: InstancePool, preparer: Preparer, clock: Clock
) -> None:
    prepare_all(preparer, clock, 2)  # one held, while it was prepared
    clock.now += 10
    with taken(scaled):  # replaced at once
        clock.now += 5
    assert scaled.stats().held_seconds == 17
    preparer.finish_all()
    clock.now += 3
    assert scaled.stats().held_seconds == 20


def test_a_factory_adds_up_its_pools_those_that_are_closed_included(
    workshop: Workshop, preparer: Preparer
) -> None:
    factory = PoolFactory(InstancePoolConfig(), 1 << 30)
    terms = PoolTerms(floor=1, ceiling=1)
    pools = [factory.new(workshop.link("initialize"), LIMITS, terms, preparer) for _ in range(2)]
    preparer.finish_all()
    for pool in pools:
        with taken(pool):
            assert factory.stats().busy == 1
    pools[0].close()
    for _ in range(2):
        stats = factory.stats()
        assert (stats.served_ready, stats.served_new, stats.busy) == (2, 0, 0)
        preparer.fail_all()
    factory.upkeep()
    assert factory.stats().failed_preparations == 2
    pools[1].close()
    assert factory.stats().ready == factory.stats().preparing == 0
