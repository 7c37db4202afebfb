"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import click

from spear_wasm.cli.output import Output
from spear_wasm.client import DEFAULT_ADDRESS
from spear_wasm.units import parse_duration, parse_size

Command: TypeAlias = Callable[..., None]

OUTPUT = "spear_wasm.output"
"""Where a context keeps its Output, for those who report errors."""


def utf8(text: str) -> str:
    """Text that can travel; a command line may hold bytes that are none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"{text!r} is not UTF-8") from error
    return text


def size(text: str) -> int:
    """Bytes above 0, written as 64KiB or 64MiB."""
    try:
        count = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not 0 < count < 2**63:
        raise click.BadParameter(f"{text} is out of bounds")
    return count


def duration(text: str) -> float:
    """Seconds above 0, written as 250ms or 1h30m."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not 0 < seconds < 10**9:
        raise click.BadParameter(f"{text} is out of bounds")
    return seconds


def address_option(command: Command) -> Command:
    """`--addr`: the server to speak to."""
    return click.option(
        "--addr",
        "address",
        metavar="HOST:PORT",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="SPEAR_WASM_ADDR",
        show_envvar=True,
        help="The server to ask.",
    )(command)


def format_option(command: Command) -> Command:
    """`--format`: for whom to print. Arrives as `output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="SPEAR_WASM_FORMAT",
        show_envvar=True,
        is_eager=True,
        callback=_open_output,
        help="Text for people, or one JSON document for programs.",
    )(command)


def _open_output(context: click.Context, _option: click.Parameter, value: str) -> Output:
    output = Output(json=value == "json")
    context.meta[OUTPUT] = output
    return output
