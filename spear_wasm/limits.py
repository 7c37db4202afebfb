"""What one execution may use: a frozen value, merged from the server's ceiling, the task and the call.

Wall time is the one limit that takes the least of what everyone says. Any other limit above its ceiling is
refused, so that nobody believes in a limit that is not in force.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from spear_wasm.errors import ConfigurationError, InvalidRequest


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits as somebody asks for them; 0 in any means: not said, take the default."""

    max_memory_bytes: int = 0
    max_fuel: int = 0
    max_cpu_time_ms: int = 0
    max_table_elements: int = 0
    max_input_bytes: int = 0
    max_output_bytes: int = 0
    max_log_bytes: int = 0
    max_concurrency: int = 0

    def __bool__(self) -> bool:
        return self != UNSAID


UNSAID = ResourceLimits()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force. All are set; 0 means unlimited for `max_fuel` and `max_cpu_time_ms` only.

    `max_memory_bytes` bounds the linear memories of one sandbox together, `max_table_elements` its tables
    together (in equal shares), `max_wall_time_ms` the time from admission to outcome, queueing included, and
    `max_concurrency` the executions of one task that run at once.
    """

    max_memory_bytes: int
    max_fuel: int
    max_cpu_time_ms: int
    max_table_elements: int
    max_input_bytes: int
    max_output_bytes: int
    max_log_bytes: int
    max_concurrency: int
    max_wall_time_ms: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in UNLIMITED_AT_ZERO):
                raise ConfigurationError(
                    f"limit {field.name} is {value}; it must be positive", limit=field.name
                )

    def within(self, ceiling: Limits, *, whose: str) -> Limits:
        """These limits, or ConfigurationError naming the first that exceeds `ceiling`."""
        for field in fields(self):
            if _exceeds(getattr(self, field.name), getattr(ceiling, field.name), field.name):
                raise ConfigurationError(
                    f"{whose} {field.name} is {getattr(self, field.name)}, above its ceiling of "
                    f"{getattr(ceiling, field.name)}",
                    limit=field.name,
                )
        return self

    def for_task(self, asked: ResourceLimits, timeout_ms: int, ceiling: Limits) -> Limits:
        """These defaults, overridden by what a task asks for.

        Raises:
            InvalidRequest: something is asked for that lies above the server's ceiling.
        """
        limits = _override(self, asked, ceiling, whose="the server's ceiling")
        if timeout_ms < 0:
            raise InvalidRequest(f"max_execution_timeout_ms is {timeout_ms}; it must not be negative")
        wall = min(timeout_ms or self.max_wall_time_ms, ceiling.max_wall_time_ms)
        return replace(limits, max_wall_time_ms=wall)

    def for_call(self, asked: ResourceLimits) -> Limits:
        """A task's limits, tightened by what one call asks for; its time budget is the manager's affair.

        Raises:
            InvalidRequest: the call asks for more than the task has, or for a concurrency of its own.
        """
        if asked.max_concurrency:
            raise InvalidRequest("max_concurrency belongs to a task, not to a call; set it in artifact_spec")
        return _override(self, asked, self, whose="the task's limit")

    def check_input(self, size: int, what: str = "the parameters are") -> None:
        """Whether a call may bring so many bytes, which `what` names in a message.

        Raises:
            InvalidRequest: they are more than `max_input_bytes`.
        """
        if size > self.max_input_bytes:
            raise InvalidRequest(
                f"{what} {size} bytes; the limit is {self.max_input_bytes}", limit="max_input_bytes"
            )


UNLIMITED_AT_ZERO = frozenset({"max_fuel", "max_cpu_time_ms"})
"""Limits that need not be there: wall time bounds a guest anyway."""


def _override(base: Limits, asked: ResourceLimits, ceiling: Limits, *, whose: str) -> Limits:
    said = {field.name: getattr(asked, field.name) for field in fields(asked) if getattr(asked, field.name)}
    for name, value in said.items():
        if value < 0 or _exceeds(value, getattr(ceiling, name), name):
            raise InvalidRequest(
                f"{name} of {value} is above {whose} of {getattr(ceiling, name)}",
                limit=name, asked=value, ceiling=getattr(ceiling, name),
            )  # fmt: skip
    return replace(base, **said) if said else base


def _exceeds(value: int, ceiling: int, name: str) -> bool:
    if name in UNLIMITED_AT_ZERO:
        return ceiling != 0 and (value == 0 or value > ceiling)
    return value > ceiling
