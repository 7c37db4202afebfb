"""Where commands write: results to standard output, whatever is about them to standard error.

Names, messages and logs may be a guest's or a stranger's choice. As text they are escaped, so that nothing in
them can act on a terminal or pass for another line.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from spear_wasm.cli.documents import as_json, as_json_line
from spear_wasm.errors import SpearError
from spear_wasm.units import format_duration


def printable(text: str, *, lines: bool = False) -> str:
    """Text in which whatever is not visible is written as an escape; `lines` keeps line ends and tabs."""
    kept = "\n\t" if lines else ""
    return "".join(
        character
        if character.isprintable() or character in kept
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class Output:
    """The two streams of a command, and whether its caller is a program (`json`) or a person."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        # Asked of the stream: the console may be told by its environment to behave as if it were a terminal.
        self.is_terminal = sys.stdout.isatty()
        self.console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self.aside = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)

    def document(self, document: Mapping[str, object]) -> None:
        """The one document that a command prints for programs."""
        click.echo(as_json(document))

    def document_line(self, document: Mapping[str, object]) -> None:
        """One of the documents that a command prints while it works, a line each."""
        click.echo(as_json_line(document))

    def line(self, text: str) -> None:
        """A line of the result."""
        click.echo(printable(text))

    def pieces(self, pieces: Iterable[bytes]) -> None:
        """Text that comes in pieces, as it comes; each may end within a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        ends_line = True
        for text in itertools.chain(map(decoder.decode, pieces), [decoder.decode(b"", final=True)]):
            if text:
                click.echo(printable(text, lines=True), nl=False)
                ends_line = text.endswith("\n")
        if not ends_line:
            click.echo()

    def heading(self, text: str) -> None:
        """The name of what follows."""
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def note(self, text: str) -> None:
        """Something worth knowing beside the result; programs are not told."""
        if not self.json:
            self.aside.print(Text(printable(text), style="dim"), soft_wrap=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """Shows how long it has been meanwhile, where somebody sees it; leaves nothing behind.

        Gives what changes the text.
        """
        if self.json or not sys.stderr.isatty():
            yield lambda _: None
            return
        shown = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), shown, TimeElapsedColumn())
        with Progress(*columns, console=self.aside, transient=True) as progress:
            line = progress.add_task(printable(what), total=None)
            yield lambda text: progress.update(line, description=printable(text))

    @contextlib.contextmanager
    def live_table(self, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Sequence[str]]], None]]:
        """A table on a terminal that is drawn anew with each call of what this gives. The last one stays."""
        with Live(console=self.console, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda rows: live.update(_drawn(columns, _escaped(rows)), refresh=True)

    def error(self, message: str, *, label: str = "error") -> None:
        """What went wrong, in a person's words."""
        text = Text.assemble((f"{label}: ", "bold red"), printable(message, lines=True))
        self.aside.print(text, soft_wrap=True)

    def refusal(self, error: SpearError, exit_code: int) -> None:
        """Why a command could not be carried out."""
        if self.json:
            self.document({"error": _error_document(error, exit_code)})
            return
        self.error(error.message)
        if error.retry_after is not None:
            self.note(f"try again in {format_duration(error.retry_after)}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows under headings: drawn on a terminal, else aligned with spaces and never cut."""
        cells = _escaped(rows)
        if self.is_terminal:
            self.console.print(_drawn(columns, cells))
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(padded).rstrip())

    def facts(self, facts: Mapping[str, str]) -> None:
        """Names and what is so, a line each."""
        width = max(map(len, facts), default=0)
        for name, fact in facts.items():
            text = Text.assemble((name.ljust(width), "dim"), "  ", printable(fact))
            self.console.print(text, soft_wrap=True)


def _escaped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in rows]


def _drawn(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _error_document(error: SpearError, exit_code: int) -> dict[str, object]:
    return {
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "retry_after_seconds": error.retry_after,
        "exit_code": exit_code,
    }
