"""A store to test, and what holds of it whenever no upload is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore, StoredArtifact, Upload
from spear_wasm.config import ArtifactsConfig
from tests.artifacts.fakes import FakeCompiler, digest_of, everything_runs

ONE, TWO, THREE = b"\0asm one", b"\0asm two", b"\0asm three"


class StoreBench:
    """A store in a directory, which may be closed and opened again."""

    def __init__(self, directory: Path, compiler: FakeCompiler) -> None:
        self.directory = directory / "data"
        self.compiler = compiler
        self.config = ArtifactsConfig()
        self.store = self.opened()

    def opened(self, config: ArtifactsConfig | None = None) -> ArtifactStore:
        """The store, closed if it was open, with another configuration if one is given."""
        if hasattr(self, "store"):
            self.store.close()
        self.config = config or self.config
        self.code = CodeCache(self.directory, self.compiler)
        self.store = ArtifactStore(self.directory, self.config, self.code, everything_runs)
        return self.store

    def begin(
        self,
        name: str = "",
        version: str = "",
        *,
        checksum: str = "",
        size: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> Upload:
        return self.store.begin_upload(name, version, checksum, size, labels or {})

    def upload(
        self, wasm: bytes, name: str = "", version: str = "", **header: Any
    ) -> tuple[StoredArtifact, bool]:
        with self.begin(name, version, **header) as upload:
            upload.write(wasm)
            return upload.finish()

    def put(self, wasm: bytes, name: str = "", version: str = "") -> StoredArtifact:
        return self.upload(wasm, name, version)[0]

    def delete(
        self, reference: str, *, force: bool = False, in_use: Callable[[str], bool] = lambda digest: False
    ) -> None:
        self.store.delete(reference, force=force, in_use=in_use)

    def files(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.directory / folder).rglob("*") if path.is_file())

    def names(self, prefix: str = "") -> list[str]:
        return [f"{found.name}:{found.version}" for found in self.store.list(prefix, 0, "")[0]]

    def check(self) -> None:
        """What holds whenever no upload is under way."""
        artifacts, bytes_on_disk = self.store.counts()
        stored = list((self.directory / "artifacts").iterdir())
        code = [path for path in (self.directory / "code").rglob("*") if path.is_file()]
        assert self.files("uploads") == []
        assert artifacts == len(stored)
        assert bytes_on_disk == sum(path.stat().st_size for path in stored + code)
        assert {path.stem for path in code} <= {path.stem for path in stored}
        for path in stored:
            assert digest_of(path.read_bytes()) == path.stem
        for _ in range(self.config.max_uploads):
            assert self.store._slots.acquire(blocking=False), "an upload's slot was not returned"
        for _ in range(self.config.max_uploads):
            self.store._slots.release()
