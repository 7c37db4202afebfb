"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click

from spear_wasm.cli.output import Output
from spear_wasm.client import DEFAULT_ADDRESS, Client, Tls
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


@dataclass(frozen=True, slots=True)
class Server:
    """The server to speak to, and how."""

    address: str
    tls: Tls | None
    token: str

    def connect(self) -> Client:
        """A connection to it."""
        return Client(self.address, tls=self.tls or False, token=self.token)


def server_options(command: Command) -> Command:
    """`--addr`, and what it takes to be let in there. Arrives as `server`."""

    @functools.wraps(command)
    def collected(
        *,
        address: str,
        use_tls: bool,
        authority: Path | None,
        certificate: Path | None,
        key: Path | None,
        token_file: Path | None,
        token: str,
        **rest: object,
    ) -> None:
        tls = Tls(authority, certificate, key) if use_tls or authority or certificate or key else None
        command(server=Server(address, tls, _token_from(token_file) if token_file else token), **rest)

    decorated: Command = collected
    for option in reversed(_SERVER_OPTIONS):
        decorated = option(decorated)
    return decorated


def _token_from(file: Path) -> str:
    """The first token in a file like that of the server."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")


def _pem_option(flag: str, name: str, says: str) -> Callable[[Command], Command]:
    return click.option(
        flag,
        name,
        metavar="FILE.pem",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar=f"SPEAR_WASM_{flag.removeprefix('--').replace('-', '_').upper()}",
        show_envvar=True,
        help=says,
    )


_SERVER_OPTIONS = (
    click.option(
        "--addr",
        "address",
        metavar="HOST:PORT",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="SPEAR_WASM_ADDR",
        show_envvar=True,
        help="The server to ask.",
    ),
    click.option(
        "--tls", "use_tls", is_flag=True, envvar="SPEAR_WASM_TLS", show_envvar=True, help="Speak TLS."
    ),
    _pem_option(
        "--tls-ca", "authority", "Authorities that may have signed the server's certificate; brings --tls."
    ),
    _pem_option("--tls-client-cert", "certificate", "One's own certificate, for servers that ask for it."),
    _pem_option("--tls-client-key", "key", "Its key."),
    click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="SPEAR_WASM_TOKEN_FILE",
        show_envvar=True,
        help="A file with the token to bring; SPEAR_WASM_TOKEN holds the token itself.",
    ),
    # Command lines can be read by everybody on the machine, variables by their owner alone: so this flag is not shown.
    click.option("--token", default="", hidden=True, envvar="SPEAR_WASM_TOKEN"),
)


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
