"""What a pool is to keep: how many sandboxes, for how long, and which of them serves."""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.pool.scaling.demand import Demand
from spear_wasm.pool.scaling.fixed import Fixed
from spear_wasm.pool.scaling.predictive import Predictive
from spear_wasm.pool.scaling.reactive import Reactive
from spear_wasm.pool.scaling.scaler import Scaler, Scaling
from spear_wasm.scheduling.policies import SchedulingPolicy


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """What a task asked for, completed by what the server gives. Times are in seconds.

    `floor` sandboxes are at hand whatever happens, up to `ceiling` as `scaling` says, which remembers for `max_idle`
    and, where it predicts, compares with what came a `season` ago. With `reuse` a sandbox serves up to `max_uses`
    calls, one at a time; it is at hand while it serves, too. No sandbox is handed out that is older than
    `max_lifetime`, nor one that has served and then been idle for `max_idle`.
    """

    floor: int = 0
    ceiling: int = 0
    reuse: bool = False
    max_uses: int = 1000
    max_lifetime: float = 3600.0
    max_idle: float = 300.0
    scheduling: SchedulingPolicy = SchedulingPolicy.LEAST_LOADED
    scaling: Scaling = Scaling.FIXED
    season: float = 86400.0

    @property
    def keeps_any(self) -> bool:
        """Whether there is anything to keep."""
        return self.ceiling > 0

    def scaler(self) -> Scaler:
        """What says how many are to be at hand, with a memory of its own."""
        demand = Demand(serves_again=self.reuse)
        match self.scaling:
            case Scaling.FIXED:
                return Fixed(self.floor)
            case Scaling.REACTIVE:
                return Reactive(self.floor, self.ceiling, self.max_idle, demand)
            case Scaling.PREDICTIVE:
                return Predictive(self.floor, self.ceiling, self.max_idle, demand, self.season)
