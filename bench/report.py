"""What was measured last, for people: a table of all figures, and a picture of what a call costs where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import bars, latest
from bench.figure import Figure

TABLE = latest.LATEST.with_name("README.md")
PEERS = latest.LATEST.with_name("peers.svg")
HEAD = """\
# Figures

What `make bench` measured last; each benchmark's own text, in `bench/`, says how. Ratios are of contestants that ran in
turns within one run: absolute times are of that machine, and of what else it did.
"""
_VERDICTS = {True: "met", False: "**not met**", None: ""}


def write(table: Path = TABLE, peers: Path = PEERS) -> None:
    """Write both anew from what is kept."""
    kept = latest.read()
    table.write_text("\n".join([HEAD, *_tables(kept)]) + "\n", encoding="utf-8")
    if "against_peers" in kept:
        peers.write_text(_picture(kept["against_peers"]["figures"]), encoding="utf-8")


def _tables(kept: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, benchmark in kept.items():
        yield f"## {name}\n"
        yield f"{_circumstances(benchmark['measured_on'])}\n"
        yield "| figure | measured | target | |"
        yield "|---|---:|---|---|"
        for kept_figure in benchmark["figures"]:
            figure = Figure(**{key: value for key, value in kept_figure.items() if key != "met"})
            measured = f"{figure.measured:.4g} {figure.unit}".strip()
            yield f"| {figure.name} | {measured} | {figure.target} | {_VERDICTS[figure.met]} |"
        yield ""


def _circumstances(on: Mapping[str, Any]) -> str:
    date = str(on["measured_at"])[:10]
    # Figures of before the machine was noted have their date alone.
    return f"{date}, {on['cores']} cores of {on['cpu']}, {on['python']}" if "cpu" in on else date


def _picture(figures: list[Mapping[str, Any]]) -> str:
    ending = ": CPU a call"
    costs = {
        each["name"].removesuffix(ending): each["measured"]
        for each in figures
        if each["name"].endswith(ending)
    }
    return bars.drawn(
        "Processor time of a server for one call", "microseconds, a fresh instance for each call; less is better",
        sorted(costs.items(), key=lambda each: each[1]), ours="spear-wasm",
    )  # fmt: skip
