"""The guests' clock: it runs while guests do, rests while none does, and leaves no guest without a tick."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from spear_wasm.engine.engine import Engine
from spear_wasm.engine.ticker import LINGER_SECONDS, SLOW_PERIODS, Pace, Ticker
from tests.workshop import PLAIN, Workshop, run_slice, sandbox_of, start

PERIOD = 0.001
PACES = {PERIOD: "start", SLOW_PERIODS * PERIOD: "start slowly"}
NOT_FOR_LONG = 10.0
"""Seconds that a test waits for what has to happen at once."""


class RecordedTimer:
    """A timer that never ticks and tells what is done to it. `while_stopping` happens in the midst of a stop."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.happened = threading.Semaphore(0)
        self.while_stopping: Callable[[], object] = lambda: None

    def start(self, period: float) -> None:
        self._note(PACES[period])

    def stop(self) -> None:
        self.while_stopping()
        self._note("stop")

    def close(self) -> None:
        self._note("close")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.happened.release()

    def wait_for(self, *calls: str) -> None:
        """Return when these are all the calls that there were, in their order."""
        while len(self.calls) < len(calls):
            assert self.happened.acquire(timeout=NOT_FOR_LONG)
        assert self.calls == list(calls)


class HeldTime:
    """A clock that the test sets, and sleep that lasts until the test ends it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_reading: Callable[[], object] = lambda: None
        self._asleep: queue.Queue[float] = queue.Queue()
        self._wake = threading.Semaphore(0)
        self._slept_out = False

    def monotonic(self) -> float:
        self.on_reading()
        return self.now

    def sleep(self, seconds: float) -> None:
        if self._slept_out:
            return
        self._asleep.put(seconds)
        self._wake.acquire()

    def wait_for_sleeper(self, seconds: float = LINGER_SECONDS) -> None:
        assert self._asleep.get(timeout=NOT_FOR_LONG) == seconds

    def wake_sleeper(self) -> None:
        self._wake.release()

    def end_all_sleep(self) -> None:
        self._slept_out = True
        self._wake.release()


@pytest.fixture
def timer() -> RecordedTimer:
    return RecordedTimer()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> HeldTime:
    held = HeldTime()
    monkeypatch.setattr("spear_wasm.engine.ticker.time", held)
    return held


@pytest.fixture
def ticker(time: HeldTime, timer: RecordedTimer) -> Iterator[Ticker]:
    made = Ticker(timer, PERIOD)
    yield made
    time.end_all_sleep()
    made.close()


def elsewhere(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def run_slice_at(ticker: Ticker, pace: Pace) -> None:
    """A guest runs for a slice, and has stopped."""
    ticker.begin_slice(pace)
    ticker.end_slice()


def test_the_timer_rests_until_a_guest_runs(ticker: Ticker, timer: RecordedTimer) -> None:
    assert timer.calls == []
    run_slice_at(ticker, Pace.FULL)
    assert timer.calls == ["start"]


def test_a_timer_that_runs_is_not_started_again(ticker: Ticker, timer: RecordedTimer) -> None:
    for _ in range(3):
        run_slice_at(ticker, Pace.FULL)
    assert timer.calls == ["start"]


def test_the_timer_is_stopped_when_no_guest_has_run_for_a_while(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime
) -> None:
    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    time.wake_sleeper()
    timer.wait_for("start", "stop")


def test_the_timer_is_not_stopped_while_a_slice_is_under_way_however_long(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime
) -> None:
    ticker.begin_slice(Pace.FULL)
    for calls in (["start", "start slowly"], ["start", "start slowly"]):
        time.wait_for_sleeper()
        time.now += 2 * LINGER_SECONDS
        time.wake_sleeper()
        timer.wait_for(*calls)
    time.wait_for_sleeper()
    ticker.end_slice()
    time.wake_sleeper()
    timer.wait_for("start", "start slowly", "stop")


def test_the_pace_of_a_slice_that_is_long_by_itself_is_kept_for_longer(
    timer: RecordedTimer, time: HeldTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    period = 2 * LINGER_SECONDS
    monkeypatch.setitem(PACES, period, "start")
    ticker = Ticker(timer, period)
    ticker.begin_slice(Pace.FULL)
    time.wait_for_sleeper(2 * period)
    time.now += period
    time.wake_sleeper()
    time.wait_for_sleeper(2 * period)
    ticker.end_slice()
    assert timer.calls == ["start"]
    time.end_all_sleep()
    ticker.close()


def test_the_next_guest_starts_the_timer_again(ticker: Ticker, timer: RecordedTimer, time: HeldTime) -> None:
    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    time.wake_sleeper()
    timer.wait_for("start", "stop")
    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    timer.wait_for("start", "stop", "start")


def test_guests_that_keep_coming_keep_the_timer_running(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime
) -> None:
    for _ in range(5):
        run_slice_at(ticker, Pace.FULL)
        time.wait_for_sleeper()
        time.now += LINGER_SECONDS / 2
        run_slice_at(ticker, Pace.FULL)
        time.now += LINGER_SECONDS / 2
        time.wake_sleeper()
    time.wait_for_sleeper()
    assert timer.calls == ["start"]


def test_guests_expected_to_be_brief_have_few_ticks(ticker: Ticker, timer: RecordedTimer) -> None:
    for _ in range(3):
        run_slice_at(ticker, Pace.SLOW)
    assert timer.calls == ["start slowly"]


def test_a_guest_that_may_be_long_has_all_ticks_beside_brief_ones(
    ticker: Ticker, timer: RecordedTimer
) -> None:
    run_slice_at(ticker, Pace.SLOW)
    run_slice_at(ticker, Pace.FULL)
    run_slice_at(ticker, Pace.SLOW)
    assert timer.calls == ["start slowly", "start"]


def test_a_long_slice_ends_early_for_who_is_in_a_hurry(ticker: Ticker, timer: RecordedTimer) -> None:
    run_slice_at(ticker, Pace.SLOW)
    ticker.hurry()
    assert timer.calls == ["start slowly", "start"]
    ticker.hurry()
    assert timer.calls == ["start slowly", "start"]


def test_ticks_are_few_again_when_only_brief_guests_have_run_for_a_while(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime
) -> None:
    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    run_slice_at(ticker, Pace.SLOW)
    time.wake_sleeper()
    timer.wait_for("start", "start slowly")
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    time.wake_sleeper()
    timer.wait_for("start", "start slowly", "stop")


class WatchedLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self.somebody_waits = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.somebody_waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_guest_that_comes_while_the_ticker_makes_up_its_mind_keeps_the_timer_running(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests: list[threading.Thread] = []
    lock = WatchedLock()
    looks = iter(("first", "second"))

    def guest_comes_before_the_second_look() -> None:
        if next(looks, None) == "second":
            guests.append(elsewhere(lambda: run_slice_at(ticker, Pace.FULL)))
            assert lock.somebody_waits.wait(NOT_FOR_LONG)

    monkeypatch.setattr(ticker, "_lock", lock)
    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    time.on_reading = guest_comes_before_the_second_look
    time.wake_sleeper()
    time.wait_for_sleeper()
    guests[0].join()
    assert timer.calls == ["start"]
    assert next(looks, None) is None


def test_a_guest_that_comes_while_the_timer_is_being_stopped_starts_it_again(
    ticker: Ticker, timer: RecordedTimer, time: HeldTime
) -> None:
    guests: list[threading.Thread] = []
    guest_has_come = threading.Event()

    def guest_comes() -> None:
        timer.while_stopping = lambda: None
        time.on_reading = guest_has_come.set
        guests.append(elsewhere(lambda: run_slice_at(ticker, Pace.FULL)))
        assert guest_has_come.wait(NOT_FOR_LONG)

    run_slice_at(ticker, Pace.FULL)
    time.wait_for_sleeper()
    time.now += 2 * LINGER_SECONDS
    timer.while_stopping = guest_comes
    time.wake_sleeper()
    timer.wait_for("start", "stop", "start")
    guests[0].join()


@pytest.mark.parametrize("guests", [0, 1])
def test_closing_ends_the_thread_and_gives_the_timer_back(
    timer: RecordedTimer, time: HeldTime, guests: int
) -> None:
    ticker = Ticker(timer, PERIOD)
    for _ in range(guests):
        run_slice_at(ticker, Pace.FULL)
        time.wait_for_sleeper()
    time.end_all_sleep()
    ticker.close()
    assert not ticker._thread.is_alive()
    assert timer.calls[-1] == "close"
    assert timer.calls.count("start") == guests


def test_lag_follows_how_late_ticks_come(ticker: Ticker) -> None:
    assert ticker.lag == 0.0
    for _ in range(100):
        ticker.slice_was_cut(Pace.FULL, PERIOD + 0.5)
        ticker.slice_was_cut(Pace.SLOW, SLOW_PERIODS * PERIOD + 0.5)
    assert ticker.lag == pytest.approx(0.5, rel=0.01)
    for _ in range(100):
        ticker.slice_was_cut(Pace.FULL, PERIOD / 2)
        ticker.slice_was_cut(Pace.SLOW, 2 * PERIOD)
    assert ticker.lag == pytest.approx(0.0, abs=0.01)


def test_an_endless_guest_is_stopped_at_each_tick_of_the_longest_that_may_be(workshop: Workshop) -> None:
    code, module = workshop.compiled("hostile")
    with closing(Engine(PLAIN, tick=0.1)) as engine, sandbox_of(engine.link(code, module, {})) as sandbox:
        steps = start(sandbox, "spin")
        for _ in range(2):
            run_slice(sandbox, steps)
        steps.close()
