"""How a command line says what the runtime_config of a task is."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from spear_wasm.model import Json

READABLE, WRITABLE = "directories", "writable_directories"


def runtime_config_of(
    settings: Iterable[str], directories: Iterable[str], writable_directories: Iterable[str]
) -> dict[str, Json]:
    """The runtime_config that `--set KEY=VALUE` and `KEY.NAME=VALUE`, `--dir` and `--writable-dir` ask for.

    Raises:
        BadParameter: one of them makes no sense, or says again what another one has said.
    """
    config: dict[str, Json] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="'--set'")
        _put(config, key, _json_or_text(value), "--set")
    for option, key, granted in (
        ("--dir", READABLE, directories), ("--writable-dir", WRITABLE, writable_directories)
    ):  # fmt: skip
        for text in granted:
            path, _, name = text.partition("::")
            _put(config, f"{key}.{name or path}", path, option)
    return config


def _put(config: dict[str, Json], key: str, value: Json, option: str) -> None:
    # Keys have no dot in them, names in an object (paths, hosts) may.
    key, dot, name = key.partition(".")
    if dot:
        part = config.setdefault(key, {})
        if not isinstance(part, dict):
            raise click.BadParameter(f"{key!r} is not an object", param_hint=f"'{option}'")
        config, key = part, name
    if key in config:
        raise click.BadParameter(f"{key!r} is given twice", param_hint=f"'{option}'")
    config[key] = value


def _json_or_text(value: str) -> Json:
    try:
        parsed: Json = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed
