"""The store against a model of it that fits on a screen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import ArtifactsConfig
from spear_wasm.errors import ArtifactDeleted, ArtifactInUse, ArtifactNotFound, StorageFull, VersionExists
from tests.artifacts.fakes import FakeCompiler, digest_of, everything_runs

MAX_ENTRIES = 6
WASMS = st.sampled_from([b"one", b"two", b"three"])
NAMES = st.sampled_from(["", "calc", "calc/x", "sums"])
VERSIONS = st.sampled_from(["", "v1", "v2"])


@dataclass
class Entry:
    name: str
    version: str
    wasm: bytes


class StoreModel(RuleBasedStateMachine):
    """`entries` are in the order of creation, `uploads` in that of their last upload."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.entries: list[Entry] = []
        self.uploads: list[Entry] = []
        self.open()

    def open(self) -> None:
        config = ArtifactsConfig(max_artifacts=MAX_ENTRIES)
        self.store = ArtifactStore(
            self.directory, config, CodeCache(self.directory, FakeCompiler()), everything_runs
        )

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(wasm=WASMS, name=NAMES, version=VERSIONS)
    def upload(self, wasm: bytes, name: str, version: str) -> None:
        version = version if name else ""
        if len(self.entries) >= MAX_ENTRIES:
            with pytest.raises(StorageFull):
                self.store.begin_upload(name, version, "", 0, {})
            return
        entry = Entry(name, version or digest_of(wasm)[:12], wasm)
        with self.store.begin_upload(name, version, "", 0, {}) as upload:
            upload.write(wasm)
            if any((e.name, e.version) == (name, entry.version) and e.wasm != wasm for e in self.entries):
                with pytest.raises(VersionExists):
                    upload.finish()
                return
            stored, created = upload.finish()
        assert created == all(e.wasm != wasm for e in self.entries)
        assert (stored.name, stored.version, stored.digest) == (name, entry.version, digest_of(wasm))
        if entry in self.entries:
            self.uploads.remove(entry)
        else:
            self.entries.append(entry)
        self.uploads.append(entry)

    @rule(name=NAMES.filter(bool), version=VERSIONS, used=st.booleans(), force=st.booleans())
    def delete_name(self, name: str, version: str, used: bool, force: bool) -> None:
        found = [e for e in self.uploads if e.name == name and version in ("", e.version)][-1:]
        self.delete(f"{name}:{version}" if version else name, found, used=used, force=force)

    @rule(wasm=WASMS, used=st.booleans(), force=st.booleans())
    def delete_digest(self, wasm: bytes, used: bool, force: bool) -> None:
        found = [e for e in self.entries if e.wasm == wasm]
        self.delete("sha256:" + digest_of(wasm), found, used=used, force=force)

    def delete(self, reference: str, found: list[Entry], *, used: bool, force: bool) -> None:
        in_use: Callable[[str], bool] = lambda digest: used  # noqa: E731
        rest = [e for e in self.entries if e not in found]
        if not found:
            with pytest.raises(ArtifactNotFound):
                self.store.delete(reference, force=force, in_use=in_use)
        elif used and not force and all(e.wasm != found[0].wasm for e in rest):
            with pytest.raises(ArtifactInUse):
                self.store.delete(reference, force=force, in_use=in_use)
        else:
            self.store.delete(reference, force=force, in_use=in_use)
            self.entries = rest
            self.uploads = [e for e in self.uploads if e not in found]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @rule(prefix=st.sampled_from(["", "c", "calc/", "x"]), size=st.integers(0, 3))
    def list(self, prefix: str, size: int) -> None:
        listed, token = self.store.list(prefix, size, "")
        while token:
            page, token = self.store.list(prefix, size, token)
            listed += page
        expected = [(e.name, e.version, digest_of(e.wasm)) for e in self.entries if e.name.startswith(prefix)]
        assert [(found.name, found.version, found.digest) for found in listed] == expected

    @rule(name=NAMES.filter(bool), version=VERSIONS)
    def resolve(self, name: str, version: str) -> None:
        found = [e for e in self.uploads if e.name == name and version in ("", e.version)]
        if found:
            assert self.store.resolve(name, version).digest == digest_of(found[-1].wasm)
        else:
            with pytest.raises(ArtifactNotFound):
                self.store.resolve(name, version)

    @rule(wasm=WASMS)
    def path(self, wasm: bytes) -> None:
        if any(e.wasm == wasm for e in self.entries):
            assert self.store.path(digest_of(wasm)).read_bytes() == wasm
        else:
            with pytest.raises(ArtifactDeleted):
                self.store.path(digest_of(wasm))

    @invariant()
    def disk_and_counts_agree(self) -> None:
        stored = {digest_of(e.wasm) for e in self.entries}
        files = list((self.directory / "artifacts").iterdir())
        code = [path for path in (self.directory / "code").rglob("*") if path.is_file()]
        assert {path.stem for path in files} == stored
        assert {path.stem for path in code} <= stored
        assert not list((self.directory / "uploads").iterdir())
        assert self.store.counts() == (len(stored), sum(path.stat().st_size for path in files + code))


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
