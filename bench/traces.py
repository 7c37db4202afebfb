"""Synthetic traces: when calls arrive, in seconds from the start, in order. The same every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Trace:
    """Calls of one task."""

    name: str
    what: str
    seconds: int
    arrivals: list[float]


def all_traces() -> list[Trace]:
    """Steady, bursty, a daily wave, and one spike out of nowhere."""
    return [
        _trace("steady", "one call in two seconds, as chance has it, for 6 hours", 6 * HOUR, lambda _: 0.5),
        _trace(
            "bursty",
            "a minute of 4 calls a second now and then, hardly any between, for 12 hours",
            12 * HOUR,
            _bursts(12 * HOUR),
        ),
        _trace(
            "daily wave",
            "quiet nights, a rush within a minute at nine, a wave until six, for 6 days",
            6 * DAY,
            _wave,
        ),
        _trace(
            "one-off spike",
            "a call in three minutes, but 200 within 20 seconds once, for 2 days",
            2 * DAY,
            lambda at: 10.0 if 100_000 <= at < 100_020 else 1 / 180,
        ),
    ]


def _trace(name: str, what: str, seconds: int, rate: Callable[[int], float]) -> Trace:
    random = Random(name)
    return Trace(name, what, seconds, list(_arrivals(random, seconds, rate)))


def _arrivals(random: Random, seconds: int, rate: Callable[[int], float]) -> Iterator[float]:
    """A Poisson process whose rate is constant within each second."""
    for second in range(seconds):
        yield from sorted(second + random.random() for _ in range(_poisson(random, rate(second))))


def _poisson(random: Random, average: float) -> int:
    count, left = 0, math.exp(-average)
    product = random.random()
    while product > left:
        count += 1
        product *= random.random()
    return count


def _bursts(seconds: int) -> Callable[[int], float]:
    random = Random("bursts")
    begins, at = [], 0.0
    while at < seconds:
        at += random.expovariate(1 / (20 * MINUTE))
        begins.append(at)
    busy = {second for begin in begins for second in range(int(begin), int(begin) + MINUTE)}
    return lambda at: 4.0 if at in busy else 0.005


def _wave(at: int) -> float:
    """Calls a second, at a second of the week. The rush is a little later on some days than on others."""
    day, time = divmod(at, DAY)
    rush = 9 * HOUR + (37 * day) % 90
    if rush <= time < rush + MINUTE:
        return 3.0
    hours = time / HOUR
    return 0.001 + (0.2 * math.sin(math.pi * (hours - 9) / 9) if 9 <= hours < 18 else 0.0)
