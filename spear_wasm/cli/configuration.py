"""`spear-wasm config`, and the options that set what is configured."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import click

from spear_wasm.cli.options import Command, format_option
from spear_wasm.cli.output import Output
from spear_wasm.config_sources import EffectiveConfig, effective_config, keys, written

SHORT_FLAGS = {
    f"server.{name}": "--" + name.replace("_", "-")
    for name in ("workers", "tls_cert", "tls_key", "tls_client_ca", "token_file")
}
"""Flags under which what everybody asks for is found; the long ones do the same."""


def config_options(command: Command) -> Command:
    """`--config` and a flag for every key. Arrives as `configuration`, an EffectiveConfig."""

    @functools.wraps(command)
    def collected(*, config_file: Path | None, **rest: object) -> None:
        given = {name: rest.pop(_parameter_of(name)) for name in keys()}
        flags = {name: str(text) for name, text in given.items() if text is not None}
        command(configuration=effective_config(config_file, os.environ, flags), **rest)

    decorated: Command = collected
    for key in reversed(list(keys().values())):
        # The environment is read by the configuration itself, which can tell a variable from a flag.
        decorated = click.option(
            *(flag for flag in (SHORT_FLAGS.get(key.name), key.flag) if flag),
            _parameter_of(key.name),
            metavar=key.takes,
            allow_from_autoenv=False,
            help=f"Default: {written(key.default) or 'none'}.  [env var: {key.variable}]",
        )(decorated)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE.toml",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="SPEAR_WASM_CONFIG",
        show_envvar=True,
        help="Limits, sizes and bounds, in the tables and under the keys that `spear-wasm config` shows.",
    )(decorated)


def _parameter_of(name: str) -> str:
    return f"key_{name.replace('.', '_')}"


@click.command()
@config_options
@format_option
def config(*, configuration: EffectiveConfig, output: Output) -> None:
    """Show the configuration that `serve` would have, and where each value comes from."""
    if output.json:
        settings = {
            name: {"value": configuration.value(key), "source": configuration.source(key)}
            for name, key in keys().items()
        }
        output.document({"config": settings})
        return
    rows = [
        (name, written(configuration.value(key)), configuration.source(key)) for name, key in keys().items()
    ]
    output.table(("KEY", "VALUE", "SOURCE"), rows)
