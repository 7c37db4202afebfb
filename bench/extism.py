"""An Extism plug-in in a fresh sandbox for each call, against Extism's own Python SDK on the same plug-in.

Ours: a sandbox with its limits armed, two instances, input, call, output and usage read, sandbox closed. The SDK's:
a plug-in made for each call, which compiles it; and one that is kept, warm, with all that earlier calls left in it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.figure import Figure, left_out, median_ratio
from bench.in_process import Guest, host_with
from bench.sandbox_cost import microseconds, sandbox_call

PLUGIN = Path(__file__).parents[1] / "fixtures" / "extism" / "plugin.wasm"
FUNCTION = "echo"
INPUT = b"There is nothing in it that Extism's SDK would not do, too."
ROUNDS = 15
CALLS = 1000
FRESH_CALLS = 15
"""Of the SDK with a plug-in made for each, which take a thousandth of a second."""


def measure() -> list[Figure]:
    """Microseconds a call, and their ratios within rounds; those of the SDK only where it is installed."""
    with (
        tempfile.TemporaryDirectory() as directory,
        host_with(Path(directory), PLUGIN.read_bytes(), FUNCTION, (INPUT,)) as guest,
    ):
        ways = _ways(guest)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (call, calls) in ways.items():
                times[name].append(microseconds(call, calls))
    figures = [Figure(name, statistics.median(rounds), "us a call") for name, rounds in times.items()]
    if len(times) == 2:
        return figures
    ours, fresh, warm = times["our fresh sandbox"], times["SDK, fresh plug-in"], times["SDK, warm plug-in"]
    return [
        Figure("SDK's fresh plug-in / our fresh sandbox", median_ratio(fresh, ours), at_least=10),
        Figure("our fresh sandbox / SDK's warm plug-in", median_ratio(ours, warm), at_most=3),
        *figures,
    ]


def _ways(guest: Guest) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, and how often it is called in a round."""
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "our fresh sandbox": (lambda: sandbox_call(guest, metered=False), CALLS),
        "through the manager": (guest.call, CALLS),
    }
    sdk = _sdk()
    if sdk is not None:
        wasm = PLUGIN.read_bytes()
        warm = sdk.Plugin(wasm)
        if bytes(warm.call(FUNCTION, INPUT)) != INPUT:
            raise RuntimeError("the SDK's plug-in does not answer what ours does")
        ways["SDK, fresh plug-in"] = (lambda: sdk.Plugin(wasm).call(FUNCTION, INPUT), FRESH_CALLS)
        ways["SDK, warm plug-in"] = (lambda: warm.call(FUNCTION, INPUT), CALLS)
    return ways


def _sdk() -> Any:
    try:
        return import_module("extism")
    except ModuleNotFoundError:
        left_out("Extism's SDK", "extism on PyPI")
        return None
