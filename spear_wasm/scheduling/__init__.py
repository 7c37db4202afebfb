"""Which waiting execution goes next. Pure: the owner brings the lock and the clock."""

from spear_wasm.scheduling.instance_scheduler import DEFAULT_PRIORITY, InstanceScheduler, Verdict

__all__ = ["DEFAULT_PRIORITY", "InstanceScheduler", "Verdict"]
