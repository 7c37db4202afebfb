"""What a task's runtime_config may ask for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from spear_wasm.config import InstancePoolConfig
from spear_wasm.errors import InvalidRequest
from spear_wasm.pool import PoolTerms
from spear_wasm.pool.scaling import Scaling
from spear_wasm.scheduling.policies import SchedulingPolicy
from spear_wasm.units import parse_duration
from spear_wasm.values import shown


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
    def parse(cls, runtime_config: Mapping[str, object], server: InstancePoolConfig) -> TaskPolicy:
        """The policy in a runtime_config.

        Raises:
            InvalidRequest: an unknown key or a value out of range.
        """
        wishes = Wishes(runtime_config)
        policy = cls(
            pool=_pool_terms(wishes, server),
            retry_traps=wishes.flag("retry_traps"),
            warm_up=wishes.text("warm_up"),
        )
        wishes.refuse_others()
        return policy


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


class Wishes:
    """Reads a runtime_config key by key. Each kind of value raises InvalidRequest, naming the key, where it is another.

    A key that nobody has asked for when `refuse_others` is called is not one of ours.
    """

    def __init__(self, runtime_config: Mapping[str, object]) -> None:
        self._given = runtime_config
        self._known: set[str] = set()

    def flag(self, key: str) -> bool:
        """True or false; false unless said."""
        value = self._take(key, default=False)
        if not isinstance(value, bool):
            raise _refused(key, value, "true or false")
        return value

    def count(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number."""
        value = self._take(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise _refused(key, value, "a whole number")
        if not least <= value <= most:
            raise _refused(key, value, f"{least} to {most}")
        return int(value)

    def seconds(self, key: str, most: float) -> float:
        """A duration above zero, in seconds or as text with units; the most unless said."""
        value = self._take(key, default=most)
        try:
            seconds = parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            raise InvalidRequest(f"runtime_config.{key}: {shown(str(error), 300)}", key=key) from None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
            raise _refused(key, value, "a duration: 30, 2s, 1h30m")
        if not 0 < seconds <= most:
            raise _refused(key, value, f"above 0 and at most {most:g} s")
        return float(seconds)

    def choice(self, key: str, default: str, options: Collection[str]) -> str:
        """One of some words."""
        value = self._take(key, default=default)
        if not isinstance(value, str) or value not in options:
            raise _refused(key, value, f"one of {', '.join(options)}")
        return value

    def text(self, key: str) -> str:
        """A text; empty unless said."""
        value = self._take(key, default="")
        if not isinstance(value, str):
            raise _refused(key, value, "a text")
        return value

    def refuse_others(self) -> None:
        """Refuse keys that are not ours."""
        unknown = self._given.keys() - self._known
        if unknown:
            raise InvalidRequest(
                f"runtime_config has no key {shown(min(unknown))}; it has: {', '.join(sorted(self._known))}",
                key=min(unknown),
            )

    def _take(self, key: str, *, default: object) -> object:
        self._known.add(key)
        return self._given.get(key, default)


def _refused(key: str, value: object, expected: str) -> InvalidRequest:
    given = f"{value:g}" if isinstance(value, float) else shown(value)
    return InvalidRequest(f"runtime_config.{key} is {given}; it must be {expected}", key=key)
