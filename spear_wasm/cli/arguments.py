"""How a command line says what a function is to be called with, and within which limits."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

import click

from spear_wasm.cli.options import Command, duration, size, utf8
from spear_wasm.cli.runtime_config import runtime_config_of
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import PROGRAM_START, Json

if TYPE_CHECKING:
    from spear_wasm.client import Client
    from spear_wasm.client.terms import CallTerms

_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Named: TypeAlias = "dict[str, Json | bytes]"


@dataclass(frozen=True, slots=True)
class CallArguments:
    """What a function is called with; `timeout` in seconds, None for the task's own.

    `runtime_config` is of the task that is to be called.
    """

    positional: tuple[Json | bytes, ...]
    named: Named
    stdin: bytes | None
    environment: dict[str, str]
    timeout: float | None
    limits: ResourceLimits
    runtime_config: dict[str, Json]

    def meant(self, word: str, functions: Container[str]) -> tuple[str, CallArguments]:
        """The function to call, and with what: a program's first argument stands where others have a function."""
        if word in functions or PROGRAM_START not in functions:
            return word, self
        return PROGRAM_START, replace(self, positional=(word, *self.positional))

    def meant_by(self, client: Client, reference: str, word: str) -> tuple[str, CallArguments]:
        """The same of an artifact of a server's, which is asked for the functions that it has."""
        if word == PROGRAM_START:
            return word, self
        return self.meant(word, {each.name for each in client.artifact(reference).functions})

    def terms(self) -> CallTerms:
        """What is said of the call beside its function and arguments."""
        return {"timeout": self.timeout, "limits": self.limits, "environment": self.environment}

    def of(self, function: str) -> tuple[tuple[Json | bytes, ...], Named]:
        """The arguments by position and those by name, with standard input where that function expects it."""
        if self.stdin is None:
            return self.positional, self.named
        if function == PROGRAM_START:
            return self.positional, {**self.named, "stdin": self.stdin}
        if self.positional:
            raise click.UsageError("ARGS and --stdin exclude each other: only a program takes both")
        return (self.stdin,), self.named


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
    def collected(  # noqa: PLR0913  one parameter for each option
        *,
        arguments: tuple[str, ...],
        document: str | None,
        stdin: bool,
        parameters: tuple[str, ...],
        timeout: float | None,
        fuel: int | None,
        max_memory: int | None,
        max_cpu_time: float | None,
        environment: tuple[str, ...],
        settings: tuple[str, ...],
        directories: tuple[str, ...],
        writable_directories: tuple[str, ...],
        **rest: object,
    ) -> None:
        positional, named = _input_of(arguments, document, stdin=stdin)
        limits = ResourceLimits(
            max_memory_bytes=max_memory or 0,
            max_fuel=fuel or 0,
            max_cpu_time_ms=math.ceil((max_cpu_time or 0) * 1000),
        )
        named |= _pairs(parameters, "-p", taken=named)
        content = sys.stdin.buffer.read() if stdin else None
        variables = _pairs(environment, "--env")
        config = runtime_config_of(settings, directories, writable_directories)
        command(call=CallArguments(positional, named, content, variables, timeout, limits, config), **rest)

    decorated: Command = collected
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _input_of(
    arguments: tuple[str, ...], document: str | None, *, stdin: bool
) -> tuple[tuple[Json | bytes, ...], Named]:
    """The arguments by position and those by name."""
    if document is not None and (arguments or stdin):
        raise click.UsageError("-i excludes ARGS and --stdin")
    if document is None:
        return tuple(map(_as_typed, arguments)), {}
    value = _parsed(document)
    if isinstance(value, list):
        return tuple(value), {}
    return ((), {**value}) if isinstance(value, dict) else ((value,), {})


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


def _pairs(texts: Iterable[str], option: str, taken: Container[str] = ()) -> dict[str, str]:
    """What an option says again and again, as NAME=VALUE."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=f"'{option}'")
        if name in pairs or name in taken:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=f"'{option}'")
        pairs[name] = value
    return pairs


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED),
    click.option(
        "-i", "--input", "document", metavar="JSON", type=utf8,
        help="Arguments as JSON: an array by position, an object by name, anything else the only one.",
    ),
    click.option(
        "--stdin", is_flag=True,
        help="The bytes of standard input are the only argument; a program has them as its own standard input.",
    ),
    click.option(
        "-p", "--param", "parameters", metavar="NAME=VALUE", type=utf8, multiple=True,
        help="An argument by name. Repeatable.",
    ),
    click.option(
        "--env", "environment", metavar="NAME=VALUE", type=utf8, multiple=True,
        help="A variable of the guest's environment. Repeatable.",
    ),
    click.option(
        "--set", "settings", metavar="KEY=VALUE", type=utf8, multiple=True,
        help="A key of the task's runtime_config, or KEY.NAME of an object in it; VALUE is JSON or else text. "
        "Repeatable.",
    ),
    click.option(
        "--dir", "directories", metavar="PATH[::AS]", type=utf8, multiple=True,
        help="A directory of the host's for a WASI guest to read, which it knows as AS. Repeatable.",
    ),
    click.option(
        "--writable-dir", "writable_directories", metavar="PATH[::AS]", type=utf8, multiple=True,
        help="The same to write in, too. Repeatable.",
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
