"""Which of several candidates serves next: among sandboxes that are used again, or whatever else can be chosen from.

The line needs none of them: tasks take turns there, and fresh sandboxes are all alike.
"""

from spear_wasm.scheduling.policies.candidate import Candidate
from spear_wasm.scheduling.policies.moving_average import MovingAverage
from spear_wasm.scheduling.policies.policy import Policy
from spear_wasm.scheduling.policies.scheduling_policy import SchedulingPolicy

__all__ = ["Candidate", "MovingAverage", "Policy", "SchedulingPolicy"]
