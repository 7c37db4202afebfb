"""`python -m bench [NAME…]`: measure everything, or what is named; print it, and keep it as JSON, a table and pictures.

What is not measured this time keeps the figures of its last time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from bench import (
    against_peers,
    batches,
    budget,
    callers,
    cancelling,
    cold,
    compile_bomb,
    component_guests,
    components,
    cpu_bound,
    deadlines,
    extism,
    fair_share,
    flatness,
    growth,
    kill_and_return,
    large_module,
    latest,
    many_records,
    record_cost,
    report,
    rpc_cost,
    sandbox_cost,
    waiting,
    warm_pool,
    wasi,
    workers,
)
from bench.figure import Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (
        sandbox_cost,
        budget,
        rpc_cost,
        against_peers,
        batches,
        cpu_bound,
        deadlines,
        cancelling,
        fair_share,
        compile_bomb,
        flatness,
        growth,
        large_module,
        cold,
        waiting,
        callers,
        record_cost,
        many_records,
        kill_and_return,
        workers,
        warm_pool,
        extism,
        wasi,
        components,
        component_guests,
    )
}


def main(names: list[str]) -> None:
    """Run the named benchmarks, in order; all of them where none is named."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    console = Console()
    for name in names or BENCHMARKS:
        figures = BENCHMARKS[name]()
        console.print(_table(name, figures))
        latest.keep(name, figures, known=BENCHMARKS)
        report.write()


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
