"""How callers name artifacts: `name`, `name:version` or `sha256:<hex>`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from spear_wasm.errors import InvalidRequest

MAX_NAME = 255
"""Characters of a whole name; each of its parts has at most 128."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VERSION = re.compile(_PART)
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_ALGORITHM = "sha256"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Reference:
    """One artifact by its name (without a version: the newest) or by its digest, 64 lower-case hex digits.

    Either `name` or `digest` is set. A digest with a version is that artifact under that version.
    """

    name: str = ""
    version: str = ""
    digest: str = ""

    def __str__(self) -> str:
        base = self.name or digest_reference(self.digest)
        return f"{base}:{self.version}" if self.version else base

    def at(self, version: str) -> Reference:
        """This reference at a version that was given beside it; an empty one changes nothing.

        Raises:
            InvalidRequest: the version is malformed, or the reference itself names another one.
        """
        if not version or version == self.version:
            return self
        if self.version:
            raise InvalidRequest(
                f"{self} names a version already; the version beside it is {quoted(version)}"
            )
        return replace(self, version=check_version(version))


def parse_reference(text: str) -> Reference:
    """The reference in `name`, `name:version` or `sha256:<hex>`.

    Raises:
        InvalidRequest: it is none of these.
    """
    name, colon, version = text.partition(":")
    if name == _ALGORITHM and colon:
        return Reference(digest=parse_checksum(text))
    return Reference(name=check_name(name), version=check_version(version) if colon else "")


def parse_checksum(text: str) -> str:
    """The 64 lower-case hex digits in a SHA-256, written with or without `sha256:`.

    Raises:
        InvalidRequest: it is no SHA-256 in hex.
    """
    digits = text.removeprefix(_ALGORITHM + ":")
    if _DIGEST.fullmatch(digits) is None:
        raise InvalidRequest(f"checksum {quoted(text)} is not a SHA-256 of 64 hex digits")
    return digits.lower()


def digest_reference(digest: str) -> str:
    """A digest as callers see it: `sha256:<hex>`."""
    return f"{_ALGORITHM}:{digest}"


def check_name(text: str) -> str:
    """The name itself.

    Raises:
        InvalidRequest: it breaks the rules for names, or is `sha256`, which would read as a digest.
    """
    if len(text) > MAX_NAME or _NAME.fullmatch(text) is None:
        raise InvalidRequest(
            f"artifact name {quoted(text)} is not made of parts like [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}, "
            f"separated by /, of at most {MAX_NAME} characters together"
        )
    if text == _ALGORITHM:
        raise InvalidRequest(f"artifact name {text!r} is reserved: {text}:<hex> means a digest")
    return text


def check_version(text: str) -> str:
    """The version itself.

    Raises:
        InvalidRequest: it breaks the rules for versions.
    """
    if _VERSION.fullmatch(text) is None:
        raise InvalidRequest(
            f"artifact version {quoted(text)} is not of the form [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}"
        )
    return text


def check_prefix(text: str) -> str:
    """The prefix itself; empty is the prefix of all names.

    Raises:
        InvalidRequest: no name can begin like that.
    """
    if len(text) > MAX_NAME or _PREFIX.fullmatch(text) is None:
        raise InvalidRequest(f"prefix {quoted(text)}: no artifact name begins like that")
    return text


def quoted(text: str) -> str:
    """Caller-chosen text for an error message: printable ASCII in quotes, and short."""
    shown = ascii(text[:_SHOWN])
    return shown if len(text) <= _SHOWN and len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
