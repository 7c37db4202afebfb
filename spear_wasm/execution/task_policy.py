"""What a task's runtime_config may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spear_wasm.config import InstancePoolConfig
from spear_wasm.pool import PoolTerms
from spear_wasm.pool.scaling import Scaling
from spear_wasm.scheduling.policies import SchedulingPolicy
from spear_wasm.wishes import Wishes

if TYPE_CHECKING:
    from spear_wasm.board import Seat


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """A runtime_config, checked, and completed by what the server gives.

    With `retry_traps` a call's `max_retries` are for traps of its guest, too. `warm_up` is the function that every
    sandbox runs before its first call, if any.
    """

    pool: PoolTerms = field(default_factory=PoolTerms)
    retry_traps: bool = False
    warm_up: str = ""

    @classmethod
    def parse(cls, wishes: Wishes, server: InstancePoolConfig) -> TaskPolicy:
        """The policy that a runtime_config asks for.

        Raises:
            InvalidRequest: a value is out of range.
        """
        return cls(
            pool=_pool_terms(wishes, server),
            retry_traps=wishes.flag("retry_traps"),
            warm_up=wishes.text("warm_up"),
        )

    def for_worker(self, seat: Seat) -> TaskPolicy:
        """A worker's part of what is for all of them together."""
        floor, ceiling = seat.share_of(self.pool.floor), seat.share_of(self.pool.ceiling)
        return replace(self, pool=replace(self.pool, floor=floor, ceiling=ceiling))


def _pool_terms(wishes: Wishes, server: InstancePoolConfig) -> PoolTerms:
    most = server.max_ready_per_task
    floor = wishes.count("ready_sandboxes", 0, least=0, most=most)
    reuse = wishes.flag("reuse")
    ceiling = wishes.count(
        "max_ready_sandboxes", most if reuse else floor, least=max(floor, int(reuse)), most=most
    )
    return PoolTerms(
        floor=floor,
        ceiling=ceiling,
        reuse=reuse,
        max_uses=wishes.count("max_uses", server.max_uses, least=1, most=server.max_uses),
        max_lifetime=wishes.seconds("max_lifetime", server.max_lifetime),
        max_idle=wishes.seconds("max_idle", server.max_idle),
        scheduling=SchedulingPolicy(wishes.choice("scheduling", server.scheduling, tuple(SchedulingPolicy))),
        scaling=Scaling(wishes.choice("scaling", server.scaling, tuple(Scaling))),
        season=float(server.season),
    )
