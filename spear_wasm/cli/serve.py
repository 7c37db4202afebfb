"""`spear-wasm serve`: a server, until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import click
import msgspec

from spear_wasm.client import DEFAULT_ADDRESS
from spear_wasm.config import Config, read_config

LogFormat = Literal["json", "console"]


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
    help="Where artifacts, compiled code and records are kept.",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE.toml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Limits, sizes and bounds.",
)
@click.option("--log-format", type=click.Choice(["json", "console"]), help="Of the log on standard error.")
def serve(address: str, data_dir: Path, config_file: Path | None, log_format: LogFormat | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Prints one line, `listening on HOST:PORT`, once requests are answered.
    """
    from spear_wasm.rpc import server  # noqa: PLC0415  brings the engine, which no other command needs

    config = read_config(config_file) if config_file else Config()
    if log_format is not None:
        log = msgspec.structs.replace(config.log, format=log_format)
        config = msgspec.structs.replace(config, log=log)
    server.serve(address, data_dir, config, lambda bound: click.echo(f"listening on {bound}"))
