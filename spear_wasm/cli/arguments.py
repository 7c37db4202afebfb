"""How a command line says what a function is to be called with, and within which limits."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import click

from spear_wasm.cli.options import Command, duration, size, utf8
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import Json

_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class CallArguments:
    """What a function is called with; `timeout` in seconds, None for the task's own."""

    positional: tuple[Json | bytes, ...]
    named: dict[str, Json]
    timeout: float | None
    limits: ResourceLimits


class FunctionCommand(click.Command):
    """A command whose arguments may be negative numbers, where a parser looks for options."""

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse unknown options, numbers aside, before the parser takes them for arguments."""
        params = self.get_params(ctx)
        options = {name: param for param in params if isinstance(param, click.Option) for name in param.opts}
        words = iter(args)
        for word in words:
            if word == "--":
                break
            if len(word) < 2 or word[0] != "-" or _NEGATIVE_NUMBER.fullmatch(word):
                continue
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            option = options.get(name)
            if option is None:
                raise click.NoSuchOption(name, possibilities=get_close_matches(name, options), ctx=ctx)
            if word == name and not option.is_flag:
                next(words, None)
        return super().parse_args(ctx, args)


def call_options(command: Command) -> Command:
    """ARGS and all that goes with them. Arrives as `call`, a CallArguments."""

    @functools.wraps(command)
    def collected(
        *,
        arguments: tuple[str, ...],
        document: str | None,
        stdin: bool,
        parameters: tuple[str, ...],
        timeout: float | None,
        fuel: int | None,
        max_memory: int | None,
        max_cpu_time: float | None,
        **rest: object,
    ) -> None:
        positional, named = _input_of(arguments, document, stdin=stdin)
        limits = ResourceLimits(
            max_memory_bytes=max_memory or 0,
            max_fuel=fuel or 0,
            max_cpu_time_ms=math.ceil((max_cpu_time or 0) * 1000),
        )
        named |= _named(parameters, taken=named)
        command(call=CallArguments(positional, named, timeout, limits), **rest)

    decorated: Command = collected
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _input_of(
    arguments: tuple[str, ...], document: str | None, *, stdin: bool
) -> tuple[tuple[Json | bytes, ...], dict[str, Json]]:
    """The arguments by position and those by name."""
    if bool(arguments) + (document is not None) + stdin > 1:
        raise click.UsageError("ARGS, -i and --stdin exclude each other")
    if stdin:
        return (sys.stdin.buffer.read(),), {}
    if document is None:
        return tuple(map(_as_typed, arguments)), {}
    value = _parsed(document)
    if isinstance(value, list):
        return tuple(value), {}
    return ((), value) if isinstance(value, dict) else ((value,), {})


def _as_typed(argument: str) -> str | bytes:
    """The text itself: the function's signature decides whether it is a number. Bytes that are none stay."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)
    return argument


def _parsed(document: str) -> Json:
    try:
        value: Json = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="'-i'") from error
    return value


def _named(parameters: Iterable[str], taken: Container[str]) -> dict[str, Json]:
    named: dict[str, Json] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{parameter!r} is not NAME=VALUE", param_hint="'-p'")
        if name in named or name in taken:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="'-p'")
        named[name] = value
    return named


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED),
    click.option(
        "-i", "--input", "document", metavar="JSON", type=utf8,
        help="Arguments as JSON: an array by position, an object by name, anything else the only one.",
    ),
    click.option("--stdin", is_flag=True, help="The bytes of standard input are the only argument."),
    click.option(
        "-p", "--param", "parameters", metavar="NAME=VALUE", type=utf8, multiple=True,
        help="An argument by name. Repeatable.",
    ),
    click.option(
        "--timeout", metavar="DURATION", type=duration,
        help="Longest time, queueing included: 250ms, 2s, 1m.",
    ),
    click.option(
        "--fuel", metavar="N", type=click.IntRange(1, 2**64 - 1),
        help="Most units of fuel, about one for each instruction.",
    ),
    click.option("--max-memory", metavar="SIZE", type=size, help="Most memory: 64KiB, 64MiB."),
    click.option("--max-cpu-time", metavar="DURATION", type=duration, help="Most CPU time: 10ms, 1s."),
)  # fmt: skip
