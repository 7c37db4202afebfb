"""Which failures are followed by another attempt, how often, and after how long."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.execution.retry import Backoff, RetryPolicy
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome

FOR_EVER: Final = 1e9
BACKOFF = Backoff(first=0.1, longest=10.0)
HOST = {ErrorCode.INSTANCE_FAILED, ErrorCode.WORKER_LOST}
TRAP_CODES = {code for code in ErrorCode if code.startswith("TRAP_")}
LIMITS_AND_WISHES = set(ErrorCode) - HOST - TRAP_CODES

codes = st.sampled_from(sorted(ErrorCode))
chances = st.floats(0, 1)
counts = st.integers(0, 100)
backoffs = st.builds(
    lambda first, more: Backoff(first, first + more), st.floats(0.001, 60), st.floats(0, 600)
)


def failed(code: ErrorCode) -> Outcome:
    return Outcome(ExecutionStatus.FAILED, error_code=code, error_message="why")


def pause_after(
    code: ErrorCode, policy: RetryPolicy, attempts: int = 1, seconds_left: float = FOR_EVER
) -> float | None:
    return policy.pause(failed(code), attempts, seconds_left, BACKOFF, 0.5)


@pytest.mark.parametrize("code", sorted(HOST))
@pytest.mark.parametrize("traps", [False, True])
def test_a_fault_of_the_host_is_retried(code: ErrorCode, traps: bool) -> None:
    assert pause_after(code, RetryPolicy(1, traps)) is not None


@pytest.mark.parametrize("code", sorted(TRAP_CODES))
def test_a_trap_is_retried_where_the_task_asks_for_it_only(code: ErrorCode) -> None:
    assert pause_after(code, RetryPolicy(1)) is None
    assert pause_after(code, RetryPolicy(1, traps=True)) is not None


@pytest.mark.parametrize("code", sorted(LIMITS_AND_WISHES))
@pytest.mark.parametrize("traps", [False, True])
def test_no_time_out_no_cancellation_no_limit_and_no_guests_own_error_is_retried(
    code: ErrorCode, traps: bool
) -> None:
    assert pause_after(code, RetryPolicy(100, traps)) is None


def test_what_completed_is_not_retried() -> None:
    assert (
        RetryPolicy(9, traps=True).pause(Outcome(ExecutionStatus.COMPLETED), 1, FOR_EVER, BACKOFF, 0) is None
    )


@given(codes, counts, st.booleans(), st.integers(1, 101))
def test_there_are_never_more_attempts_than_one_and_the_retries(
    code: ErrorCode, retries: int, traps: bool, attempts: int
) -> None:
    policy = RetryPolicy(retries, traps)
    if attempts > retries:
        assert pause_after(code, policy, attempts) is None
    else:
        assert (pause_after(code, policy, attempts) is not None) == (pause_after(code, policy) is not None)


@given(backoffs, st.integers(1, 100), chances, st.floats(0, 1e4))
def test_a_retry_begins_within_the_budget_or_not_at_all(
    backoff: Backoff, attempts: int, chance: float, seconds_left: float
) -> None:
    lost = failed(ErrorCode.WORKER_LOST)
    pause = RetryPolicy(100).pause(lost, attempts, seconds_left, backoff, chance)
    assert pause is None or 0 < pause < seconds_left
    assert (pause is None) == (backoff.pause(attempts, chance) >= seconds_left)


@given(backoffs, st.integers(1, 10_000), chances)
def test_pauses_double_up_to_the_longest_and_no_more_than_half_is_chance(
    backoff: Backoff, failed: int, chance: float
) -> None:
    shortest, longest = backoff.pause(failed, 0), backoff.pause(failed, 1)
    assert longest == 2 * shortest
    assert shortest <= backoff.pause(failed, chance) <= longest <= backoff.longest
    assert backoff.pause(failed + 1, 1) == min(2 * longest, backoff.longest)
    assert backoff.pause(1, 1) == backoff.first
