"""wasi:cli: what a guest is told, its standard streams, its end. And terminals: it has none."""

from __future__ import annotations

from spear_wasm.engine.outcome import GuestExit
from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wasi.preview2.streams import InputStream, OutputStream
from spear_wasm.wit.values import Err, Ok, WitValue

ENVIRONMENT = Interface("wasi:cli/environment")
EXIT = Interface("wasi:cli/exit")
STDIN = Interface("wasi:cli/stdin")
STDOUT = Interface("wasi:cli/stdout")
STDERR = Interface("wasi:cli/stderr")
TERMINAL_INPUT = Interface("wasi:cli/terminal-input", "terminal-input")
TERMINAL_OUTPUT = Interface("wasi:cli/terminal-output", "terminal-output")
TERMINAL_STDIN = Interface("wasi:cli/terminal-stdin")
TERMINAL_STDOUT = Interface("wasi:cli/terminal-stdout")
TERMINAL_STDERR = Interface("wasi:cli/terminal-stderr")


@ENVIRONMENT.function("get-environment", "func() -> list<tuple<string, string>>")
def get_environment(guest: ComponentGuest) -> WitValue:
    return list(guest.variables.items())


@ENVIRONMENT.function("get-arguments", "func() -> list<string>")
def get_arguments(guest: ComponentGuest) -> WitValue:
    return [argument.decode() for argument in guest.arguments]


@ENVIRONMENT.function("initial-cwd", "func() -> option<string>")
def initial_cwd(_: ComponentGuest) -> WitValue:
    return None


@EXIT.function("exit", "func(status: result)")
def leave(_: ComponentGuest, status: Ok | Err) -> WitValue:
    raise GuestExit(0 if isinstance(status, Ok) else 1)


@EXIT.function("exit-with-code", "func(status-code: u8)")
def leave_with_code(_: ComponentGuest, code: int) -> WitValue:
    raise GuestExit(code)


@STDIN.function("get-stdin", "func() -> own<input-stream>")
def get_stdin(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(InputStream(guest.stdin))


@STDOUT.function("get-stdout", "func() -> own<output-stream>")
def get_stdout(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(OutputStream(guest.stdout))


@STDERR.function("get-stderr", "func() -> own<output-stream>")
def get_stderr(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(OutputStream(guest.stderr))


@TERMINAL_STDIN.function("get-terminal-stdin", "func() -> option<own<terminal-input>>")
@TERMINAL_STDOUT.function("get-terminal-stdout", "func() -> option<own<terminal-output>>")
@TERMINAL_STDERR.function("get-terminal-stderr", "func() -> option<own<terminal-output>>")
def no_terminal(_: ComponentGuest) -> WitValue:
    return None


CLI = (
    ENVIRONMENT, EXIT, STDIN, STDOUT, STDERR, TERMINAL_INPUT, TERMINAL_OUTPUT, TERMINAL_STDIN, TERMINAL_STDOUT,
    TERMINAL_STDERR,
)  # fmt: skip
