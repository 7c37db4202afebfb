"""Machine code on disk, made once for each artifact and kind of engine, and believed only if it is ours.

Below the data directory:

    key                              what our files are sealed with
    code/<fingerprint>/<digest>.cwasm   machine code
    code/<fingerprint>/<digest>.json    its sidecar: what we state about it, sealed

The statement names digest, fingerprint, size and the seal of the code, so that no file passes for another.
Whatever does not fit together is compiled again: nothing in the cache is worth an error.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from spear_wasm.artifacts.files import SEALED_MODE, disk_full_refused, make_directory, make_private_directory, write_sealed
from spear_wasm.artifacts.references import digest_reference, parse_checksum
from spear_wasm.artifacts.seal import Seal, open_key, same_seal
from spear_wasm.artifacts.single_flight import SingleFlight
from spear_wasm.engine.compilation import Compilation
from spear_wasm.errors import ArtifactDeleted, ArtifactError
from spear_wasm.model import ModuleInfo

_TEMPORARY_PREFIX = ".making-"
_FINGERPRINT = re.compile(r"[0-9a-f]{16,128}")
_MAX_SIDECAR_BYTES = 64 << 20
"""Far above what an accepted module can say about itself; a larger file is none of ours."""

Identity: TypeAlias = tuple[int, int, int, int, int]


class Compiler(Protocol):
    """What the cache asks of a compiler; `spear_wasm.engine.compiler` has the real one."""

    def fingerprint(self, *, metered: bool) -> str:
        """16 or more lower-case hex digits that name the conditions which machine code depends on."""

    def compile(self, wasm: Path, output: Path, *, metered: bool) -> Compilation:
        """Write the machine code of the module in `wasm` to `output`. Blocks.

        Raises:
            InvalidArtifact: it is no module that we run.
            CompileRefused: it took more than one compilation may take.
        """


@dataclass(frozen=True, slots=True)
class CompiledCode:
    """Machine code that is ours, in a file to be mapped; the time is that of its compilation, in ms of wall time."""

    path: Path
    module: ModuleInfo
    compile_time_ms: float


class _Statement(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    fingerprint: str
    size_bytes: int
    code_seal: str
    compile_time_ms: float
    module: ModuleInfo


class _Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`statement` stays undecoded until its seal has been checked."""

    seal: str
    statement: msgspec.Raw


class CodeCache:
    """The machine code of artifacts, by digest. Thread-safe; `load` blocks while it compiles.

    One process at a time may have the directory, which the ArtifactStore's lock on it sees to: the store
    calls `open` once it has that lock, and nothing works before.
    """

    def __init__(self, directory: Path, compiler: Compiler) -> None:
        self._key_file = directory / "key"
        self._root = directory / "code"
        self._compiler = compiler
        self._flights: SingleFlight[tuple[str, bool], CompiledCode] = SingleFlight()
        self._seal: Seal | None = None
        self._lock = threading.Lock()  # guards: _verified, _sizes, _total
        # Code whose seal was found right in this process, as it was then: a file that changed is checked again.
        self._verified: dict[Path, tuple[Identity, str]] = {}
        self._sizes: dict[Path, int] = {}
        self._total = 0

    def open(self) -> None:
        """Read the key, remove what other versions and broken-off compilations left, and see what is there."""
        make_directory(self._root.parent)
        make_private_directory(self._root)
        self._seal = Seal(open_key(self._key_file))
        current = {self._fingerprint(metered=metered) for metered in (False, True)}
        for folder in list(self._root.iterdir()):
            if folder.name in current:
                self._take_stock(folder)
            elif _FINGERPRINT.fullmatch(folder.name):
                shutil.rmtree(folder)

    def load(self, digest: str, wasm: Path, *, metered: bool) -> CompiledCode:
        """The machine code of an artifact, compiled from the module in `wasm` where the cache has none.

        `wasm` must hold the bytes of that digest. Callers who want the same code at once wait for one
        compilation and share its error.

        Raises:
            InvalidArtifact: it is no module that we run.
            CompileRefused: compiling it took more than one compilation may take.
            ArtifactDeleted: `wasm` is not there, or went away meanwhile.
            StorageFull: the disk is full.
        """
        digest = parse_checksum(digest)
        while True:
            try:
                return self._flights.do((digest, metered), lambda: self._load(digest, wasm, metered=metered))
            except ArtifactDeleted:
                # It may have been another caller's copy of the bytes that went away.
                if not wasm.exists():
                    raise

    def remove(self, digest: str) -> None:
        """Remove an artifact's machine code, for all kinds of engines."""
        digest = parse_checksum(digest)
        for folder in list(self._root.iterdir()):
            self._remove_pair(folder / digest)

    def retain(self, digests: Collection[str]) -> None:
        """Remove the machine code of all artifacts but these."""
        with self._lock:
            strangers = {path.with_suffix("") for path in self._sizes if path.stem not in digests}
        for base in strangers:
            self._remove_pair(base)

    def bytes_on_disk(self) -> int:
        """Bytes of machine code and sidecars, as we wrote and found them."""
        with self._lock:
            return self._total

    def _load(self, digest: str, wasm: Path, *, metered: bool) -> CompiledCode:
        fingerprint = self._fingerprint(metered=metered)
        base = self._root / fingerprint / digest
        return self._authentic(base, fingerprint) or self._compiled(base, fingerprint, wasm, metered=metered)

    def _fingerprint(self, *, metered: bool) -> str:
        fingerprint = self._compiler.fingerprint(metered=metered)
        if _FINGERPRINT.fullmatch(fingerprint) is None:
            raise ValueError(f"a compiler's fingerprint is 16 to 128 lower-case hex digits, not {fingerprint!r}")
        return fingerprint

    def _authentic(self, base: Path, fingerprint: str) -> CompiledCode | None:
        try:
            statement = self._statement(_sidecar_of(base))
            if statement is None or (statement.digest, statement.fingerprint) != (base.name, fingerprint):
                return None
            code = _code_of(base)
            if not self._is_what_is_stated(code, statement):
                return None
        except (OSError, msgspec.MsgspecError, UnicodeError):
            return None
        return CompiledCode(code, statement.module, statement.compile_time_ms)

    def _statement(self, sidecar: Path) -> _Statement | None:
        with sidecar.open("rb") as file:
            content = file.read(_MAX_SIDECAR_BYTES)
        envelope = msgspec.json.decode(content, type=_Sidecar)
        if not same_seal(envelope.seal, self._opened().of_statement(bytes(envelope.statement))):
            return None
        return msgspec.json.decode(envelope.statement, type=_Statement)

    def _is_what_is_stated(self, code: Path, statement: _Statement) -> bool:
        identity = _identity(code)
        with self._lock:
            if self._verified.get(code) == (identity, statement.code_seal):
                return True
        if code.stat().st_size != statement.size_bytes:
            return False
        if not same_seal(self._opened().of_code(code), statement.code_seal):
            return False
        with self._lock:
            self._verified[code] = (identity, statement.code_seal)
        return True

    def _compiled(self, base: Path, fingerprint: str, wasm: Path, *, metered: bool) -> CompiledCode:
        make_private_directory(base.parent)
        output = base.with_name(_TEMPORARY_PREFIX + secrets.token_hex(8))
        try:
            compilation = self._compile(wasm, output, metered=metered)
            with disk_full_refused():
                compiled = self._publish(base, fingerprint, output, compilation)
        finally:
            output.unlink(missing_ok=True)
        # The artifact's removal takes its bytes before its code: either it saw our code, or we see that here.
        if not wasm.exists():
            self._remove_pair(base)
            raise _gone(base.name)
        return compiled

    def _compile(self, wasm: Path, output: Path, *, metered: bool) -> Compilation:
        if not wasm.exists():
            raise _gone(output.name)
        try:
            return self._compiler.compile(wasm, output, metered=metered)
        except ArtifactError as error:
            if wasm.exists():
                raise
            raise _gone(output.name) from error

    def _publish(self, base: Path, fingerprint: str, output: Path, compilation: Compilation) -> CompiledCode:
        output.chmod(SEALED_MODE)
        statement = _Statement(
            digest=base.name,
            fingerprint=fingerprint,
            size_bytes=output.stat().st_size,
            code_seal=self._opened().of_code(output),
            compile_time_ms=compilation.seconds * 1000,
            module=compilation.module,
        )
        code = _code_of(base)
        # Until the sidecar has followed, the code is not what the old one states, and nobody believes it.
        output.replace(code)
        self._write_sidecar(_sidecar_of(base), statement)
        with self._lock:
            self._verified[code] = (_identity(code), statement.code_seal)
        self._account(base)
        return CompiledCode(code, statement.module, statement.compile_time_ms)

    def _write_sidecar(self, path: Path, statement: _Statement) -> None:
        stated = msgspec.json.encode(statement)
        sidecar = _Sidecar(self._opened().of_statement(stated), msgspec.Raw(stated))
        write_sealed(path, msgspec.json.encode(sidecar), temporary_prefix=_TEMPORARY_PREFIX)

    def _remove_pair(self, base: Path) -> None:
        _sidecar_of(base).unlink(missing_ok=True)
        _code_of(base).unlink(missing_ok=True)
        with self._lock:
            self._verified.pop(_code_of(base), None)
        self._account(base)

    def _take_stock(self, folder: Path) -> None:
        for path in list(folder.iterdir()):
            if path.name.startswith(_TEMPORARY_PREFIX):
                path.unlink()
            else:
                self._account(path.with_suffix(""))

    def _account(self, base: Path) -> None:
        for path in (_code_of(base), _sidecar_of(base)):
            # Looking and noting in one step, or an older look could overwrite a newer one.
            with self._lock:
                size = path.stat().st_size if path.exists() else 0
                self._total += size - self._sizes.pop(path, 0)
                if size:
                    self._sizes[path] = size

    def _opened(self) -> Seal:
        assert self._seal is not None, "the code cache is used before it was opened"
        return self._seal


def _code_of(base: Path) -> Path:
    return base.with_name(base.name + ".cwasm")


def _sidecar_of(base: Path) -> Path:
    return base.with_name(base.name + ".json")


def _identity(path: Path) -> Identity:
    # With the change time, which unlike the modification time cannot be set back.
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _gone(digest: str) -> ArtifactDeleted:
    return ArtifactDeleted(f"{digest_reference(digest)} was deleted; upload it again", digest=digest)
