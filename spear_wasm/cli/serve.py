"""`spear-wasm serve`: a server, until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path

import click

from spear_wasm.cli.configuration import config_options
from spear_wasm.client import DEFAULT_ADDRESS
from spear_wasm.config_sources import EffectiveConfig


def _default_data_dir() -> Path:
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "spear-wasm"


@click.command()
@click.option(
    "--addr",
    "address",
    metavar="HOST:PORT",
    default=DEFAULT_ADDRESS,
    show_default=True,
    envvar="SPEAR_WASM_ADDR",
    show_envvar=True,
    help="Where to listen; port 0 takes a free one.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_data_dir,
    show_default="~/.local/share/spear-wasm",
    envvar="SPEAR_WASM_DATA_DIR",
    show_envvar=True,
    help="Where artifacts, compiled code and records are kept.",
)
@click.option(
    "--insecure",
    is_flag=True,
    envvar="SPEAR_WASM_INSECURE",
    show_envvar=True,
    help="Let other machines in without TLS and authentication.",
)
@config_options
def serve(*, address: str, data_dir: Path, insecure: bool, configuration: EffectiveConfig) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Prints one line, `listening on HOST:PORT`, once requests are answered. What is set by a flag goes before the
    environment, that before the file, that before the default; `spear-wasm config` shows what comes of it.
    """
    from spear_wasm.rpc import server  # noqa: PLC0415  brings the engine, which no other command needs

    server.serve(
        address,
        data_dir,
        configuration.config,
        lambda bound: click.echo(f"listening on {bound}"),
        insecure=insecure,
    )
