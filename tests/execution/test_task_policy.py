"""What a task's runtime_config may ask for, and what it is told where it asks for something else."""

from __future__ import annotations

import math

import pytest

from spear_wasm.config import InstancePoolConfig, Seconds
from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.task_policy import TaskPolicy
from spear_wasm.pool import PoolTerms
from spear_wasm.pool.scaling import Scaling
from spear_wasm.scheduling.policies import SchedulingPolicy
from spear_wasm.wishes import Wishes

SERVER = InstancePoolConfig(
    max_ready_per_task=4,
    max_uses=50,
    max_lifetime=Seconds(600),
    max_idle=Seconds(60),
    scheduling="random",
    scaling="reactive",
    season=Seconds(3600),
)


def policy_of(asked: dict[str, object], server: InstancePoolConfig) -> TaskPolicy:
    wishes = Wishes(asked)
    policy = TaskPolicy.parse(wishes, server)
    wishes.refuse_others()
    return policy


def terms(**asked: object) -> PoolTerms:
    return policy_of(asked, SERVER).pool


def refusal(**asked: object) -> str:
    with pytest.raises(InvalidRequest) as refused:
        terms(**asked)
    assert refused.value.metadata["key"] in asked
    return refused.value.message


def test_a_task_that_asks_for_nothing_keeps_no_sandboxes() -> None:
    assert not terms().keeps_any
    assert not terms().reuse


def test_what_a_task_does_not_say_is_what_the_server_gives() -> None:
    assert terms(reuse=True) == PoolTerms(
        floor=0,
        ceiling=4,
        reuse=True,
        max_uses=50,
        max_lifetime=600,
        max_idle=60,
        scheduling=SchedulingPolicy.RANDOM,
        scaling=Scaling.REACTIVE,
        season=3600,
    )


def test_a_task_may_have_less_than_the_server_gives() -> None:
    asked = terms(reuse=True, max_uses=3.0, max_lifetime="1m30s", max_idle=2.5, scheduling="round_robin")
    assert (asked.max_uses, asked.max_lifetime, asked.max_idle) == (3, 90, 2.5)
    assert asked.scheduling is SchedulingPolicy.ROUND_ROBIN


@pytest.mark.parametrize("asked", [0, 4, 4.0])
def test_a_task_may_have_ready_sandboxes_up_to_the_servers_bound(asked: float) -> None:
    assert terms(ready_sandboxes=asked).floor == terms(ready_sandboxes=asked).ceiling == asked


def test_a_task_may_have_more_when_it_needs_them() -> None:
    asked = terms(ready_sandboxes=1, max_ready_sandboxes=3, scaling="predictive")
    assert (asked.floor, asked.ceiling, asked.scaling) == (1, 3, Scaling.PREDICTIVE)


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        ({"ready_sandboxes": 2, "max_ready_sandboxes": 1}, "2 to 4"),
        ({"max_ready_sandboxes": 5}, "0 to 4"),
        ({"max_ready_sandboxes": 0, "reuse": True}, "1 to 4"),
    ],
)
def test_the_most_is_not_below_the_least_nor_above_the_servers_bound(
    asked: dict[str, object], bounds: str
) -> None:
    message = refusal(**asked)
    assert message.startswith("runtime_config.max_ready_sandboxes is ")
    assert message.endswith(f"it must be {bounds}")


@pytest.mark.parametrize("asked", [-1, 5, 1e300])
def test_more_ready_sandboxes_than_that_are_refused(asked: float) -> None:
    assert refusal(ready_sandboxes=asked) == f"runtime_config.ready_sandboxes is {asked:g}; it must be 0 to 4"


@pytest.mark.parametrize("asked", [1.5, math.inf, math.nan, True, None, "2", [2]])
@pytest.mark.parametrize("key", ["ready_sandboxes", "max_uses"])
def test_what_is_no_number_is_refused(key: str, asked: object) -> None:
    assert refusal(**{key: asked}).endswith("it must be a whole number")


@pytest.mark.parametrize("asked", [0, 51])
def test_a_number_of_uses_beyond_the_servers_is_refused(asked: int) -> None:
    assert refusal(max_uses=asked) == f"runtime_config.max_uses is {asked}; it must be 1 to 50"


@pytest.mark.parametrize("asked", [0, -1, 601, "11m", math.inf])
def test_a_lifetime_beyond_the_servers_is_refused(asked: object) -> None:
    message = refusal(max_lifetime=asked)
    assert message.startswith("runtime_config.max_lifetime is ")
    assert message.endswith("it must be above 0 and at most 600 s")


@pytest.mark.parametrize("asked", ["soon", "5 parsecs", "", True, None, [1], math.nan])
def test_what_is_no_duration_is_refused_by_its_key(asked: object) -> None:
    assert "runtime_config.max_idle" in refusal(max_idle=asked)


def test_a_task_may_have_its_traps_retried() -> None:
    assert policy_of({"retry_traps": True}, SERVER).retry_traps
    assert not policy_of({}, SERVER).retry_traps


@pytest.mark.parametrize("asked", [1, 0.0, None, "true", [True]])
@pytest.mark.parametrize("key", ["reuse", "retry_traps"])
def test_whether_something_is_so_is_true_or_false(key: str, asked: object) -> None:
    assert refusal(**{key: asked}).endswith("it must be true or false")


@pytest.mark.parametrize("asked", ["", "fastest", 1, None, ["random"]])
def test_an_unknown_policy_is_refused_with_those_that_there_are(asked: object) -> None:
    message = refusal(scheduling=asked)
    assert message.startswith("runtime_config.scheduling is ")
    assert all(policy in message for policy in SchedulingPolicy)


@pytest.mark.parametrize("asked", ["", "auto", 1, None])
def test_an_unknown_way_of_scaling_is_refused_with_those_that_there_are(asked: object) -> None:
    assert refusal(scaling=asked).endswith("it must be one of fixed, reactive, predictive")


def test_an_unknown_key_is_refused_by_its_name() -> None:
    message = refusal(reuse=True, rescue=True)
    assert message.startswith("runtime_config has no key 'rescue'; it has: ")
    assert all(key in message for key in ("max_idle", "max_lifetime", "max_uses", "ready_sandboxes", "reuse"))


def test_the_servers_policies_and_ways_of_scaling_are_those_that_there_are() -> None:
    for policy in SchedulingPolicy:
        assert policy_of({}, InstancePoolConfig(scheduling=policy.value)).pool.scheduling is policy
    for scaling in Scaling:
        assert policy_of({}, InstancePoolConfig(scaling=scaling.value)).pool.scaling is scaling
