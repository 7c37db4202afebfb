"""The policies by name."""

from __future__ import annotations

from enum import StrEnum
from random import Random

from spear_wasm.scheduling.policies.least_loaded import LeastLoaded
from spear_wasm.scheduling.policies.least_response_time import LeastResponseTime
from spear_wasm.scheduling.policies.policy import Policy
from spear_wasm.scheduling.policies.power_of_two import PowerOfTwo
from spear_wasm.scheduling.policies.random_order import RandomOrder
from spear_wasm.scheduling.policies.resource_based import ResourceBased
from spear_wasm.scheduling.policies.round_robin import RoundRobin
from spear_wasm.scheduling.policies.weighted_round_robin import WeightedRoundRobin


class SchedulingPolicy(StrEnum):
    """Every policy that there is."""

    ROUND_ROBIN = "round_robin"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
    LEAST_LOADED = "least_loaded"
    LEAST_RESPONSE_TIME = "least_response_time"
    RESOURCE_BASED = "resource_based"
    RANDOM = "random"
    POWER_OF_TWO = "power_of_two"

    def new(self, random: Random) -> Policy:
        """A policy object with a history of its own; those that draw lots draw them from `random`."""
        match self:
            case SchedulingPolicy.ROUND_ROBIN:
                return RoundRobin()
            case SchedulingPolicy.WEIGHTED_ROUND_ROBIN:
                return WeightedRoundRobin()
            case SchedulingPolicy.LEAST_LOADED:
                return LeastLoaded()
            case SchedulingPolicy.LEAST_RESPONSE_TIME:
                return LeastResponseTime()
            case SchedulingPolicy.RESOURCE_BASED:
                return ResourceBased()
            case SchedulingPolicy.RANDOM:
                return RandomOrder(random)
            case SchedulingPolicy.POWER_OF_TWO:
                return PowerOfTwo(random)
