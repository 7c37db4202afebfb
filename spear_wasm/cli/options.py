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


class Utf8(click.ParamType):
    """Text that can travel: the command line may hold bytes that are none."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is not UTF-8."""
        if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return value


class Size(click.ParamType):
    """A number of bytes above 0, such as 64MiB."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size."""
        if isinstance(value, int):
            return value
        try:
            size = parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < size < 2**63:
            self.fail(f"{value!r} is not a size that can be", param, ctx)
        return size


class Duration(click.ParamType):
    """Seconds above 0, written as 250ms or 1h30m."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the duration."""
        if not isinstance(value, str):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < seconds < 10**9:
            self.fail(f"{value!r} is not a duration that can be", param, ctx)
        return seconds


UTF8, SIZE, DURATION = Utf8(), Size(), Duration()


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
