"""`python -m bench [NAME…]`: measure everything, or what is named; print it and keep it as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    cancelling,
    compile_bomb,
    deadlines,
    fair_share,
    flatness,
    kill_and_return,
    large_module,
    machine,
    many_records,
    record_cost,
    rpc_cost,
    sandbox_cost,
    waiting,
    warm_pool,
)
from bench.figure import Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (
        sandbox_cost,
        rpc_cost,
        deadlines,
        cancelling,
        fair_share,
        compile_bomb,
        flatness,
        large_module,
        waiting,
        record_cost,
        many_records,
        kill_and_return,
        warm_pool,
    )
}
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(names: list[str]) -> None:
    """Run the named benchmarks, in order; all of them where none is named."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    console = Console()
    measured: dict[str, list[Figure]] = {}
    for name in names or BENCHMARKS:
        measured[name] = BENCHMARKS[name]()
        console.print(_table(name, measured[name]))
    RESULTS.parent.mkdir(exist_ok=True)
    document = {
        "machine": machine.facts(),
        "figures": {
            name: [asdict(figure) | {"met": figure.met} for figure in figures]
            for name, figures in measured.items()
        },
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _table(name: str, figures: list[Figure]) -> Table:
    table = Table(title=name, title_justify="left")
    for heading in ("figure", "measured", "target", ""):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for figure in figures:
        verdict = {True: "met", False: "[bold]not met[/bold]", None: ""}[figure.met]
        table.add_row(figure.name, f"{figure.measured:.4g} {figure.unit}", figure.target, verdict)
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
