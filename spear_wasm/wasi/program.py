"""How programs are called, whichever preview they are made for: what becomes their argv, standard input and result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast

import msgspec

from spear_wasm.engine.outcome import GuestExit
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import Limits
from spear_wasm.model import PROGRAM_START, Field, Parameter, Signature, TypedValue, ValueType
from spear_wasm.values import check_type_name, to_bytes
from spear_wasm.wasi.guest import WasiCall

if TYPE_CHECKING:
    from spear_wasm.engine.guest_sandbox import GuestSandbox
    from spear_wasm.wishes import Wishes

STDIN = "stdin"
"""The parameter that becomes standard input, whatever place it has."""
PROGRAM_NAME = "program"
SIGNATURE = Signature(PROGRAM_START, (), (Field("stdout", ValueType.BYTES),))

Run: TypeAlias = "Callable[[Any], Generator[None, None, int]]"
"""Runs the program in a sandbox of its kind; returns its exit status where it returns at all."""


class BeginsCalls(Protocol):
    """The state of a sandbox whose guest may be a program."""

    def begin(self, call: WasiCall) -> None:
        """Take what a call brings."""
        ...


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """How a task's parameters become what a program is told; with `json_input` a document on standard input.

    `reuses` says that the task wants its sandboxes to serve again, which is for functions that are no programs.
    """

    argv0: bytes
    json_input: bool
    reuses: bool

    @classmethod
    def parse(cls, wishes: Wishes) -> Self:
        """The keys `argv0`, `parameters` and `reuse` of a runtime_config.

        Raises:
            InvalidRequest: one of them makes no sense.
        """
        argv0 = wishes.text("argv0") or PROGRAM_NAME
        if "\0" in argv0:
            raise InvalidRequest("runtime_config.argv0 holds a zero", key="argv0")
        json_input = wishes.choice("parameters", "argv", ("argv", "json")) == "json"
        return cls(argv0.encode(), json_input, wishes.flag("reuse"))

    def refuse_reuse(self) -> None:
        """For tasks that call a program.

        Raises:
            InvalidRequest: the task's sandboxes are to be reused.
        """
        if self.reuses:
            raise InvalidRequest(
                "runtime_config.reuse is true; a program is over when it has run, and cannot be called again",
                key="reuse",
            )


class Program:
    """A program, run from its start to its end."""

    signature = SIGNATURE

    def __init__(self, settings: ProgramSettings, run: Run) -> None:
        self._settings = settings
        self._run = run

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> WasiCall:
        """Its argv, standard input and environment."""
        stdin = [each for each in parameters if each.name == STDIN]
        others = [each for each in parameters if each.name != STDIN]
        if len(stdin) > 1:
            raise InvalidRequest(f"{STDIN} is given {len(stdin)} times")
        argv0, content = self._settings.argv0, to_bytes(stdin[0], STDIN) if stdin else b""
        if not self._settings.json_input:
            call = WasiCall([argv0, *map(_argument, others)], content, environment)
        elif stdin:
            raise InvalidRequest(
                f"this task's parameters are a document on {STDIN}, which cannot be given, too"
            )
        else:
            call = WasiCall([argv0], _document(others), environment)
        limits.check_input(call.size, "the parameters and variables are")
        return call

    def steps(
        self,
        sandbox: GuestSandbox,
        arguments: object,
    ) -> Generator[None, None, tuple[TypedValue, ...]]:
        """Run it; its exit status is how that ends, always."""
        cast("BeginsCalls", sandbox.state).begin(cast("WasiCall", arguments))
        status = yield from self._exit_status(sandbox)
        raise GuestExit(status, _result(sandbox))

    def _exit_status(self, sandbox: GuestSandbox) -> Generator[None, None, int]:
        try:
            return (yield from self._run(sandbox))
        except GuestExit as exited:
            return exited.status


def _result(sandbox: GuestSandbox) -> tuple[TypedValue, ...]:
    # Who reads along has had it all.
    return () if sandbox.reader is not None else (TypedValue(ValueType.BYTES, sandbox.output),)


def _argument(parameter: Parameter) -> bytes:
    """A parameter as a program's argument: text and bytes as they are, anything else as JSON has it."""
    check_type_name(parameter, "an argument")
    value = parameter.value
    if isinstance(value, bytes | str):
        argument = value if isinstance(value, bytes) else value.encode()
    else:
        argument = msgspec.json.encode(value)
    if b"\0" in argument:
        raise InvalidRequest("an argument holds a zero, with which arguments end")
    return argument


def _document(parameters: Sequence[Parameter]) -> bytes:
    """Parameters as one JSON document: an object where they have names, otherwise an array."""
    if not any(parameter.name for parameter in parameters):
        return msgspec.json.encode([parameter.value for parameter in parameters])
    document = {parameter.name: parameter.value for parameter in parameters}
    if len(document) < len(parameters):
        raise InvalidRequest(
            "parameters for a JSON document must have a name each, every one another, or none at all"
        )
    return msgspec.json.encode(document)
