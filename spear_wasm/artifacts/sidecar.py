"""What we state about a file of machine code, sealed, in a file beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spear_wasm.artifacts.seal import Seal, same_seal
from spear_wasm.model import ModuleInfo

_MAX_BYTES = 64 << 20
"""Far above what an accepted module can say about itself; a larger file is none of ours."""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """Which machine code it is (module's digest, engine's fingerprint, size, seal), and what is in it."""

    digest: str
    fingerprint: str
    size_bytes: int
    code_seal: str
    compile_time_ms: float
    module: ModuleInfo


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`statement` stays undecoded until its seal has been checked."""

    seal: str
    statement: msgspec.Raw


def sealed(statement: Statement, seal: Seal) -> bytes:
    """The content of a sidecar."""
    stated = msgspec.json.encode(statement)
    return msgspec.json.encode(_Envelope(seal.of_statement(stated), msgspec.Raw(stated)))


def read_sidecar(path: Path, seal: Seal) -> Statement | None:
    """The statement in a sidecar, or None where there is none that we sealed."""
    try:
        with path.open("rb") as file:
            envelope = msgspec.json.decode(file.read(_MAX_BYTES), type=_Envelope)
        if not same_seal(envelope.seal, seal.of_statement(bytes(envelope.statement))):
            return None
        return msgspec.json.decode(envelope.statement, type=Statement)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
