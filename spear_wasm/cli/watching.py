"""`--watch`: a list on a terminal that is drawn anew every second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import click

from spear_wasm.cli.options import Command
from spear_wasm.cli.output import Output

WATCH_SECONDS = 1.0

watch_option: Callable[[Command], Command] = click.option(
    "--watch", is_flag=True, help="Again every second, on a terminal, until Ctrl-C."
)


def check_watchable(output: Output) -> None:
    """Refuse to draw where nobody sees it.

    Raises:
        UsageError: the output goes elsewhere.
    """
    if output.json or not output.is_terminal:
        raise click.UsageError("--watch is for terminals; leave it out")


def watch(output: Output, columns: Sequence[str], rows: Callable[[], Iterable[Sequence[str]]]) -> NoReturn:
    """Draw what `rows` gives, again and again, until Ctrl-C."""
    with output.live_table(columns) as draw:
        while True:
            draw(rows())
            time.sleep(WATCH_SECONDS)
