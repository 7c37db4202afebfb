"""Bounds on texts by name that callers hand in: labels and environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from spear_wasm.errors import InvalidRequest
from spear_wasm.values import shown

MAX_ENTRIES = 64
MAX_ENTRY_CHARS = 4096


def check_entries(entries: Mapping[str, str], field: str) -> None:
    """Refuse too many, and too long ones.

    Raises:
        InvalidRequest: naming the field.
    """
    if len(entries) > MAX_ENTRIES or any(len(k) + len(v) > MAX_ENTRY_CHARS for k, v in entries.items()):
        raise InvalidRequest(f"{field} may hold {MAX_ENTRIES} entries of {MAX_ENTRY_CHARS} characters each")


def check_environment(variables: Mapping[str, str], field: str) -> None:
    """Refuse what cannot be told to a guest as NAME=value, ended by a zero.

    Raises:
        InvalidRequest: naming the field.
    """
    check_entries(variables, field)
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(
                f"{field} has a variable {shown(name)}: a name must not be empty or hold '=', nor either a zero"
            )
