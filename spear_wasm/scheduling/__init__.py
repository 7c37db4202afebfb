"""Which waiting execution goes next, and what a task may hold. Pure: the owner brings the lock and the clock."""

from spear_wasm.scheduling.allowance import Allowance
from spear_wasm.scheduling.fair_share import is_at_share
from spear_wasm.scheduling.instance_scheduler import DEFAULT_PRIORITY, InstanceScheduler, Verdict
from spear_wasm.scheduling.room import Holding, Room

__all__ = ["DEFAULT_PRIORITY", "Allowance", "Holding", "InstanceScheduler", "Room", "Verdict", "is_at_share"]
