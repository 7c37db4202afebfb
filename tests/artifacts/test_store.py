from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import ArtifactsConfig
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactNotFound,
    ConfigurationError,
    InvalidRequest,
    VersionExists,
)
from tests.artifacts.fakes import FakeCompiler, digest_of, everything_runs
from tests.artifacts.store_bench import ONE, TWO, StoreBench

UNKNOWN = "0" * 64


# What an upload becomes


def test_an_uploaded_artifact_is_found_by_all_of_its_references(bench: StoreBench) -> None:
    stored, created = bench.upload(ONE, "team/calc", "v1", labels={"owner": "ä"})
    assert created
    assert stored.digest == digest_of(ONE)
    assert (stored.name, stored.version, stored.size_bytes) == ("team/calc", "v1", len(ONE))
    assert stored.labels == {"owner": "ä"}
    assert stored.module == bench.compiler.info
    assert stored.compile_time_ms == 250
    for reference in ("team/calc", "team/calc:v1", "sha256:" + stored.digest):
        assert bench.store.resolve(reference) == stored
    assert bench.store.resolve("team/calc", "v1") == stored
    assert bench.store.get(stored.digest) == bench.store.get("sha256:" + stored.digest) == stored
    assert bench.store.path(stored.digest).read_bytes() == ONE


def test_times_are_milliseconds_since_the_epoch(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear_wasm.artifacts.store.time.time", lambda: 1_700_000_000.1234)
    assert bench.put(ONE, "calc").created_at == 1_700_000_000_123


def test_bytes_may_come_in_any_pieces(bench: StoreBench) -> None:
    with bench.begin("calc", checksum=digest_of(ONE), size=len(ONE)) as upload:
        for position in range(len(ONE)):
            upload.write(ONE[position : position + 1])
        upload.write(b"")
        stored, _ = upload.finish()
    assert bench.store.path(stored.digest).read_bytes() == ONE


def test_a_version_that_was_not_said_comes_from_the_digest(bench: StoreBench) -> None:
    assert bench.put(ONE, "calc").version == digest_of(ONE)[:12]
    assert bench.store.resolve("calc:" + digest_of(ONE)[:12]).digest == digest_of(ONE)


def test_an_upload_without_a_name_is_reached_by_its_digest(bench: StoreBench) -> None:
    stored = bench.put(ONE)
    assert (stored.name, stored.version) == ("", digest_of(ONE)[:12])
    assert bench.store.resolve("sha256:" + stored.digest) == stored


def test_digests_with_the_same_beginning_are_stored_without_names(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear_wasm.artifacts.upload.UploadHeader.version_of", lambda header, digest: "same")
    assert bench.put(ONE).digest != bench.put(TWO).digest


def test_everything_is_there_after_a_restart(bench: StoreBench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    bench.opened()
    assert bench.store.resolve("calc") == stored
    assert bench.store.path(stored.digest).read_bytes() == ONE
    bench.code.load(stored.digest, bench.store.path(stored.digest), metered=False)
    assert len(bench.compiler.compiled) == 1


def test_a_bare_name_means_its_newest_upload(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "calc", "v2")
    assert bench.store.resolve("calc").version == "v2"
    bench.put(ONE, "calc", "v1")
    assert bench.store.resolve("calc").version == "v1"
    assert bench.names() == ["calc:v1", "calc:v2"], "the order of creation stays"


def test_files_and_folders_are_for_their_owner_alone(bench: StoreBench) -> None:
    stored = bench.put(ONE, "calc")
    assert stat.S_IMODE(bench.store.path(stored.digest).stat().st_mode) == 0o400
    folders = [bench.directory, *(path for path in bench.directory.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    for path in bench.directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_directory_of_the_operators_keeps_its_mode(tmp_path: Path, compiler: FakeCompiler) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    StoreBench(tmp_path, compiler).store.close()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "data" / "catalog.db").stat().st_mode) == 0o600


# The same bytes again


def test_the_same_bytes_again_are_neither_created_nor_compiled(bench: StoreBench) -> None:
    first = bench.put(ONE, "calc", "v1")
    again, created = bench.upload(ONE, "calc", "v1", labels={"ignored": "yes"})
    assert not created
    assert again == first
    assert bench.store.counts()[0] == 1
    assert len(bench.compiler.compiled) == 1


def test_the_same_bytes_under_another_name_share_one_file(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    other, created = bench.upload(ONE, "sums", "v9", labels={"a": "b"})
    assert (created, other.name, other.labels) == (False, "sums", {"a": "b"})
    assert bench.names() == ["calc:v1", "sums:v9"]
    assert bench.files("artifacts") == [digest_of(ONE) + ".wasm"]
    assert len(bench.compiler.compiled) == 1


def test_a_digest_goes_by_the_name_that_came_last(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v9")
    assert bench.store.get(digest_of(ONE)).name == "sums"
    assert bench.store.resolve("sha256:" + digest_of(ONE), "v1").name == "calc"


def test_a_version_does_not_move(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(VersionExists) as caught:
        bench.upload(TWO, "calc", "v1")
    assert caught.value.metadata["digest"] == digest_of(ONE)
    assert bench.compiler.compiled == [(digest_of(ONE), False)], "what is refused is not compiled"
    assert bench.store.resolve("calc:v1").digest == digest_of(ONE)


def test_a_version_that_would_move_is_refused_before_any_bytes_if_a_checksum_says_so(
    bench: StoreBench,
) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(VersionExists):
        bench.begin("calc", "v1", checksum=digest_of(TWO))
    bench.begin("calc", "v1", checksum=digest_of(ONE)).close()


# Finding


@pytest.mark.parametrize("reference", ["calc", "calc:v1", "sha256:" + UNKNOWN])
def test_what_is_not_there_is_not_found(bench: StoreBench, reference: str) -> None:
    with pytest.raises(ArtifactNotFound, match=reference):
        bench.store.resolve(reference)
    with pytest.raises(ArtifactNotFound):
        bench.delete(reference)


def test_unknown_digests_are_not_found_and_have_no_file(bench: StoreBench) -> None:
    with pytest.raises(ArtifactNotFound):
        bench.store.get(UNKNOWN)
    with pytest.raises(ArtifactDeleted):
        bench.store.path(UNKNOWN)


def test_a_digest_under_a_version_that_it_does_not_have_is_not_found(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(ArtifactNotFound):
        bench.store.resolve("sha256:" + digest_of(ONE), "v2")


def test_malformed_references_are_refused(bench: StoreBench) -> None:
    with pytest.raises(InvalidRequest):
        bench.store.resolve("a b")
    with pytest.raises(InvalidRequest):
        bench.store.resolve("calc:v1", "v2")
    for ask in (bench.store.get, bench.store.path):
        with pytest.raises(InvalidRequest):
            ask("../../etc/passwd")


# One process, one catalogue


def test_a_directory_has_one_store_at_a_time_and_the_error_says_whose(bench: StoreBench) -> None:
    bench.put(ONE, "calc")
    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}") as caught:
        ArtifactStore(
            bench.directory, bench.config, CodeCache(bench.directory, FakeCompiler("other")), everything_runs
        )
    assert caught.value.metadata["pid"] == str(os.getpid())
    assert len(bench.files("code")) == 2, "who is refused removes nothing"
    bench.opened()


def test_closing_again_is_harmless(bench: StoreBench) -> None:
    bench.store.close()
    bench.store.close()
    bench.opened()


def test_a_store_is_closed_at_the_end_of_its_block(tmp_path: Path, compiler: FakeCompiler) -> None:
    for _ in range(2):
        with ArtifactStore(
            tmp_path, ArtifactsConfig(), CodeCache(tmp_path, compiler), everything_runs
        ) as store:
            assert store.counts() == (0, 0)


def test_an_upload_that_outlives_its_store_leaves_nothing(bench: StoreBench) -> None:
    upload = bench.begin("calc")
    upload.write(ONE)
    bench.store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        upload.finish()
    assert bench.files("uploads") == bench.files("artifacts") == []
    bench.opened()


@pytest.mark.parametrize("content", [b"no database, but long enough to look at" * 10])
def test_a_catalogue_that_is_none_is_the_operators_mistake(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.db").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"catalog\.db"):
        ArtifactStore(tmp_path, ArtifactsConfig(), CodeCache(tmp_path, FakeCompiler()), everything_runs)


def test_a_catalogue_of_a_newer_version_is_not_touched(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.store._catalog._connection.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigurationError, match="schema version 2"):
        bench.opened()
    with sqlite3.connect(bench.directory / "catalog.db") as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    bench.opened()
    assert bench.names() == ["calc:v1"]


def test_a_store_that_cannot_open_lets_go_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"catalog\.db"):
            ArtifactStore(tmp_path, ArtifactsConfig(), CodeCache(tmp_path, FakeCompiler()), everything_runs)
