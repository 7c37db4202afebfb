"""What a call may say besides its function and its arguments, as keywords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from spear_wasm.client.values import Argument
from spear_wasm.limits import ResourceLimits


class CallTerms(TypedDict, total=False):
    """The terms of a call of any task.

    Attributes:
        timeout: seconds until the guest is stopped, queueing included; None: the task's budget.
        limits: tighter ones than the task's, for this call alone.
        environment: variables on top of the task's.
        max_retries: attempts after the first, for faults of the host and what else the task retries.
    """

    timeout: float | None
    limits: ResourceLimits | None
    environment: Mapping[str, str] | None
    max_retries: int


class TaskTerms(CallTerms, total=False):
    """The terms of a call of an artifact, for which there is, or is made, a task.

    Attributes:
        runtime_config: the task's policy and grants: `reuse`, `directories` and whatever else its runtime knows. Who
            says the same of the same artifact calls the same task.
        task_name: of that task. Unless it is said the server chooses one, or the client where there is a
            `runtime_config`; for that it asks the server which artifact is meant.
    """

    runtime_config: Mapping[str, Argument] | None
    task_name: str
