"""What a guest emits, shown as it comes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import click

from spear_wasm.cli.output import Output, printable


def show_messages(output: Output, messages: Iterable[bytes]) -> None:
    """Print each message when it comes: as it is, escaped on a terminal, or as a document of a line."""
    if output.json:
        for message in messages:
            output.document_line({"message": message})
    elif output.is_terminal:
        _show_to_a_person(messages)
    else:
        for message in messages:
            click.echo(message, nl=False)


def _show_to_a_person(messages: Iterable[bytes]) -> None:
    # Characters may be cut in two by the end of a message.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    ends_a_line = True
    for message in messages:
        text = printable(decoder.decode(message), lines=True)
        click.echo(text, nl=False)
        ends_a_line = text.endswith("\n") if text else ends_a_line
    click.echo(printable(decoder.decode(b"", final=True)), nl=not ends_a_line)
