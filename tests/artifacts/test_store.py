from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spear_wasm.artifacts import catalog
from spear_wasm.artifacts.catalog import Catalog
from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore, StoredArtifact, Upload
from spear_wasm.artifacts.upload import StagedBytes
from spear_wasm.config import ArtifactsConfig, Size
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactInUse,
    ArtifactNotFound,
    ArtifactTooLarge,
    ChecksumMismatch,
    CompileRefused,
    ConfigurationError,
    InvalidArtifact,
    InvalidRequest,
    StorageFull,
    TooManyUploads,
    VersionExists,
)
from tests.artifacts.fakes import Background, FakeCompiler, Followers, Gate, digest_of, module_info

ONE, TWO, THREE = b"\0asm one", b"\0asm two", b"\0asm three"
UNKNOWN = "0" * 64


class Bench:
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
        self.store = ArtifactStore(self.directory, self.config, self.code)
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


@pytest.fixture
def bench(tmp_path: Path, compiler: FakeCompiler) -> Iterator[Bench]:
    bench = Bench(tmp_path, compiler)
    yield bench
    bench.check()
    bench.store.close()


# What an upload becomes


def test_an_uploaded_artifact_is_found_by_all_of_its_references(bench: Bench) -> None:
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


def test_times_are_milliseconds_since_the_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear_wasm.artifacts.store.time.time", lambda: 1_700_000_000.1234)
    assert bench.put(ONE, "calc").created_at == 1_700_000_000_123


def test_bytes_may_come_in_any_pieces(bench: Bench) -> None:
    with bench.begin("calc", checksum=digest_of(ONE), size=len(ONE)) as upload:
        for position in range(len(ONE)):
            upload.write(ONE[position : position + 1])
        upload.write(b"")
        stored, _ = upload.finish()
    assert bench.store.path(stored.digest).read_bytes() == ONE


def test_a_version_that_was_not_said_comes_from_the_digest(bench: Bench) -> None:
    assert bench.put(ONE, "calc").version == digest_of(ONE)[:12]
    assert bench.store.resolve("calc:" + digest_of(ONE)[:12]).digest == digest_of(ONE)


def test_an_upload_without_a_name_is_reached_by_its_digest(bench: Bench) -> None:
    stored = bench.put(ONE)
    assert (stored.name, stored.version) == ("", digest_of(ONE)[:12])
    assert bench.store.resolve("sha256:" + stored.digest) == stored


def test_digests_with_the_same_beginning_are_stored_without_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear_wasm.artifacts.upload.UploadHeader.version_of", lambda header, digest: "same")
    assert bench.put(ONE).digest != bench.put(TWO).digest


def test_everything_is_there_after_a_restart(bench: Bench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    bench.opened()
    assert bench.store.resolve("calc") == stored
    assert bench.store.path(stored.digest).read_bytes() == ONE
    bench.code.load(stored.digest, bench.store.path(stored.digest), metered=False)
    assert len(bench.compiler.compiled) == 1


def test_a_bare_name_means_its_newest_upload(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "calc", "v2")
    assert bench.store.resolve("calc").version == "v2"
    bench.put(ONE, "calc", "v1")
    assert bench.store.resolve("calc").version == "v1"
    assert bench.names() == ["calc:v1", "calc:v2"], "the order of creation stays"


def test_files_and_folders_are_for_their_owner_alone(bench: Bench) -> None:
    stored = bench.put(ONE, "calc")
    assert stat.S_IMODE(bench.store.path(stored.digest).stat().st_mode) == 0o400
    folders = [bench.directory, *(path for path in bench.directory.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    for path in bench.directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_directory_of_the_operators_keeps_its_mode(tmp_path: Path, compiler: FakeCompiler) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    Bench(tmp_path, compiler).store.close()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "data" / "catalog.db").stat().st_mode) == 0o600


# The same bytes again


def test_the_same_bytes_again_are_neither_created_nor_compiled(bench: Bench) -> None:
    first = bench.put(ONE, "calc", "v1")
    again, created = bench.upload(ONE, "calc", "v1", labels={"ignored": "yes"})
    assert not created
    assert again == first
    assert bench.store.counts()[0] == 1
    assert len(bench.compiler.compiled) == 1


def test_the_same_bytes_under_another_name_share_one_file(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    other, created = bench.upload(ONE, "sums", "v9", labels={"a": "b"})
    assert (created, other.name, other.labels) == (False, "sums", {"a": "b"})
    assert bench.names() == ["calc:v1", "sums:v9"]
    assert bench.files("artifacts") == [digest_of(ONE) + ".wasm"]
    assert len(bench.compiler.compiled) == 1


def test_a_digest_goes_by_the_name_that_came_last(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v9")
    assert bench.store.get(digest_of(ONE)).name == "sums"
    assert bench.store.resolve("sha256:" + digest_of(ONE), "v1").name == "calc"


def test_a_version_does_not_move(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(VersionExists) as caught:
        bench.upload(TWO, "calc", "v1")
    assert caught.value.metadata["digest"] == digest_of(ONE)
    assert bench.compiler.compiled == [(digest_of(ONE), False)], "what is refused is not compiled"
    assert bench.store.resolve("calc:v1").digest == digest_of(ONE)


def test_a_version_that_would_move_is_refused_before_any_bytes_if_a_checksum_says_so(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(VersionExists):
        bench.begin("calc", "v1", checksum=digest_of(TWO))
    bench.begin("calc", "v1", checksum=digest_of(ONE)).close()


# What the header may say


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"name": ".calc"}, "artifact name"),
        ({"name": "sha256"}, "reserved"),
        ({"name": "calc", "version": "a/b"}, "artifact version"),
        ({"version": "v1"}, "without a name"),
        ({"checksum": "abc"}, "64 hex digits"),
        ({"size": -1}, "negative"),
        ({"labels": {f"k{number}": "" for number in range(33)}}, "33 labels"),
        ({"labels": {"": "v"}}, "1 to 128 bytes"),
        ({"labels": {"ä" * 65: "v"}}, "1 to 128 bytes"),
        ({"labels": {"k": "ä" * 513}}, "at most 1024 bytes"),
        ({"labels": {"\ud800": "v"}}, "not valid Unicode"),
        ({"labels": {"k": "\ud800"}}, "not valid Unicode"),
    ],
)
def test_a_malformed_header_is_refused(bench: Bench, header: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        bench.begin(**header)


def test_the_largest_labels_are_kept(bench: Bench) -> None:
    labels = {f"{number:02}" + "k" * 126: "v" * 1024 for number in range(32)}
    assert bench.upload(ONE, "calc", labels=labels)[0].labels == labels
    bench.opened()
    assert bench.store.resolve("calc").labels == labels


# Bounds


def test_an_announced_size_above_the_bound_is_refused_before_any_bytes(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with pytest.raises(ArtifactTooLarge):
        bench.begin(size=11)
    bench.begin(size=10).close()


def test_bytes_above_the_bound_are_refused_when_they_come(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with bench.begin() as upload:
        upload.write(b"x" * 10)
        with pytest.raises(ArtifactTooLarge, match="11 bytes"):
            upload.write(b"x")
        assert bench.files("uploads") == [], "an upload that failed leaves nothing, even before its end"


def test_a_disk_that_is_full_of_artifacts_takes_no_more(bench: Bench) -> None:
    bench.put(ONE, "calc")
    taken = bench.store.counts()[1]
    bench.opened(ArtifactsConfig(max_disk=Size(taken + 5)))
    with pytest.raises(StorageFull):
        bench.begin(size=6)
    with bench.begin() as upload:
        upload.write(b"12345")
        with pytest.raises(StorageFull):
            upload.write(b"6")
    assert bench.store.counts() == (1, taken)


def test_concurrent_uploads_together_stay_within_the_disk(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_disk=Size(100)))
    with bench.begin(size=60) as one, bench.begin(size=60) as two:
        one.write(b"x" * 50)
        two.write(b"x" * 50)
        assert bench.store.counts() == (0, 100)
        with pytest.raises(StorageFull):
            one.write(b"x")
        assert bench.store.counts() == (0, 50), "what was broken off makes room"
        two.write(b"x" * 10)


def test_machine_code_counts_as_bytes_on_disk(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_disk=Size(len(ONE) + 10)))
    with pytest.raises(StorageFull):
        bench.upload(ONE, "calc")
    assert bench.store.counts() == (0, 0)
    assert bench.files("code") == []


def test_deleting_makes_room(bench: Bench) -> None:
    bench.put(ONE, "calc")
    bench.opened(ArtifactsConfig(max_disk=Size(bench.store.counts()[1])))
    with pytest.raises(StorageFull):
        bench.upload(TWO, "sums")
    bench.delete("calc")
    bench.put(TWO, "sums")


def test_as_many_names_as_the_server_keeps_and_no_more(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_artifacts=2))
    bench.put(ONE, "calc", "v1")
    with bench.begin("late") as upload:
        bench.put(ONE, "calc", "v2")
        with pytest.raises(StorageFull, match="2 artifacts"):
            bench.begin("more")
        upload.write(TWO)
        with pytest.raises(StorageFull):
            upload.finish()
    assert bench.names() == ["calc:v1", "calc:v2"]


def test_as_many_uploads_at_once_as_the_server_takes_and_no_more(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_uploads=2))
    with bench.begin(), bench.begin():
        with pytest.raises(TooManyUploads) as caught:
            bench.begin()
        assert caught.value.retry_after is not None
    bench.put(ONE)


def test_a_refused_header_takes_no_slot(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_uploads=1, max_artifact=Size(10)))
    with pytest.raises(ArtifactTooLarge):
        bench.begin(size=11)
    bench.begin().close()


def test_an_upload_that_cannot_be_made_takes_no_slot(bench: Bench) -> None:
    (bench.directory / "uploads").rmdir()
    for _ in range(bench.config.max_uploads + 1):
        with pytest.raises(FileNotFoundError):
            bench.begin()
    (bench.directory / "uploads").mkdir()


# Uploads that come to nothing


def test_an_upload_that_is_broken_off_leaves_nothing(bench: Bench) -> None:
    with bench.begin("calc") as upload:
        upload.write(ONE)
        assert len(bench.files("uploads")) == 1
    assert bench.store.counts() == (0, 0)
    assert bench.files("uploads") == []


def test_an_upload_whose_caller_fails_leaves_nothing(bench: Bench) -> None:
    def fail() -> None:
        with bench.begin("calc") as upload:
            upload.write(ONE)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert bench.store.counts() == (0, 0)


@pytest.mark.parametrize("announced", [digest_of(TWO), "sha256:" + digest_of(TWO).upper()])
def test_bytes_that_are_not_the_announced_ones_are_refused(bench: Bench, announced: str) -> None:
    with pytest.raises(ChecksumMismatch, match=digest_of(ONE)):
        bench.upload(ONE, "calc", checksum=announced)
    assert bench.compiler.compiled == []


def test_fewer_bytes_than_announced_are_refused(bench: Bench) -> None:
    with pytest.raises(ChecksumMismatch, match=f"{len(ONE)} bytes came of the {len(ONE) + 1}"):
        bench.upload(ONE, "calc", size=len(ONE) + 1)


def test_more_bytes_than_announced_are_refused_when_they_come(bench: Bench) -> None:
    with bench.begin("calc", size=len(ONE)) as upload:
        upload.write(ONE)
        with pytest.raises(ChecksumMismatch, match="more bytes"):
            upload.write(b"!")


@pytest.mark.parametrize(
    ("wasm", "error"),
    [(b"invalid", InvalidArtifact), (b"bomb", CompileRefused)],
)
def test_a_module_that_does_not_compile_leaves_nothing(
    bench: Bench, wasm: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bench.upload(wasm, "calc")
    assert bench.names() == []
    assert bench.files("artifacts") == bench.files("code") == []


@pytest.mark.parametrize("end", [Upload.close, Upload.finish])
def test_an_upload_that_is_over_takes_nothing_more(bench: Bench, end: Callable[[Upload], object]) -> None:
    with bench.begin("calc") as upload:
        upload.write(ONE)
        end(upload)
        for again in (lambda: upload.write(b"more"), upload.finish):
            with pytest.raises(ValueError, match="over"):
                again()
        upload.close()


def test_an_upload_after_an_error_cannot_go_on_with_a_hole(bench: Bench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with bench.begin() as upload:
        with pytest.raises(ArtifactTooLarge):
            upload.write(b"x" * 11)
        with pytest.raises(ValueError, match="over"):
            upload.write(b"x")


def test_a_full_disk_under_an_upload_is_storage_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spear_wasm.artifacts.upload.os.fsync", full)
    with pytest.raises(StorageFull):
        bench.upload(ONE, "calc")


def test_a_full_disk_under_the_catalogue_is_storage_full(bench: Bench) -> None:
    db = bench.store._catalog._connection
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    bench.compiler.info = module_info("f" * 100_000)
    with pytest.raises(StorageFull):
        bench.upload(ONE, "calc")
    db.execute("PRAGMA max_page_count = 1000000")
    assert bench.store.counts() == (0, 0)
    bench.put(ONE, "calc")


# Uploads at the same time


def test_the_same_bytes_twice_at_once_are_one_artifact(
    bench: Bench, background: Background, followers: Followers
) -> None:
    gate = bench.compiler.during = Gate()
    first = background.start(lambda: bench.upload(ONE, "calc", "v1"))
    gate.wait_for_arrival()
    second = background.start(lambda: bench.upload(ONE, "calc", "v1"))
    followers.wait_for(1)
    gate.open()
    outcomes = [first(), second()]
    assert sorted(created for _, created in outcomes) == [False, True]
    assert outcomes[0][0] == outcomes[1][0]
    assert bench.files("artifacts") == [digest_of(ONE) + ".wasm"]
    assert len(bench.compiler.compiled) == 1


def test_other_bytes_for_one_version_at_once_leave_one_winner(bench: Bench, background: Background) -> None:
    gate = bench.compiler.during = Gate()
    uploads = [background.start(lambda wasm=wasm: bench.upload(wasm, "calc", "v1")) for wasm in (ONE, TWO)]  # type: ignore[misc]
    gate.wait_for_arrival()
    gate.wait_for_arrival()
    gate.open()
    winners, losers = [], []
    for upload in uploads:
        try:
            winners.append(upload()[0])
        except VersionExists:
            losers.append(upload)
    assert len(winners) == len(losers) == 1
    assert bench.store.resolve("calc:v1") == winners[0]
    assert bench.store.counts()[0] == 1


def test_code_stays_for_an_upload_that_needs_it_when_another_of_the_same_bytes_fails(
    bench: Bench, background: Background, followers: Followers
) -> None:
    compiling = bench.compiler.during = Gate()
    publishing = Gate()
    compile_artifact = bench.store._compile
    failing: threading.Thread | None = None

    def held_if_needed(staged: StagedBytes) -> catalog.Description:
        description = compile_artifact(staged)
        if threading.current_thread() is not failing:
            publishing()
        return description

    def fail() -> None:
        nonlocal failing
        failing = threading.current_thread()
        bench.upload(ONE, "calc", "v1")

    bench.store._compile = held_if_needed  # type: ignore[method-assign]
    loser = background.start(fail)
    compiling.wait_for_arrival()
    winner = background.start(lambda: bench.upload(ONE, "sums", "v1"))
    followers.wait_for(1)
    bench.store._catalog.enter(
        catalog.Entry("calc", "v1", digest_of(TWO), {}, 0),
        catalog.Description(0, 0, module_info()),
        max_entries=9,
    )
    compiling.open()
    with pytest.raises(VersionExists):
        loser()
    publishing.wait_for_arrival()
    assert len(bench.files("code")) == 2
    publishing.open()
    assert winner()[1]
    bench.store._catalog.forget(digest_of(TWO))
    bench.code.load(digest_of(ONE), bench.store.path(digest_of(ONE)), metered=False)
    assert len(bench.compiler.compiled) == 1


def test_an_upload_that_is_being_finished_is_closed_when_it_is(bench: Bench, background: Background) -> None:
    gate = bench.compiler.during = Gate()
    with bench.begin("calc") as upload:
        upload.write(ONE)
        finished = background.start(upload.finish)
        gate.wait_for_arrival()
        closed = background.start(upload.close)
        gate.open()
        assert finished()[1]
        closed()
    assert bench.names() == ["calc:" + digest_of(ONE)[:12]]


def test_bytes_that_are_deleted_while_they_are_uploaded_again_are_stored_again(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    describe = bench.store._catalog.describe

    def then_deleted(digest: str) -> catalog.Description | None:
        description = describe(digest)
        bench.delete("calc:v1")
        return description

    bench.store._catalog.describe = then_deleted  # type: ignore[method-assign]
    stored, created = bench.upload(ONE, "sums", "v1")
    assert created
    assert bench.store.path(stored.digest).read_bytes() == ONE
    assert bench.code.load(stored.digest, bench.store.path(stored.digest), metered=False).path.exists()


def test_a_generation_ends_when_names_change(bench: Bench) -> None:
    seen = [bench.store.generation]
    bench.put(ONE, "calc", "v1")
    seen.append(bench.store.generation)
    bench.put(TWO, "calc", "v2")
    seen.append(bench.store.generation)
    bench.put(ONE, "calc", "v1")
    seen.append(bench.store.generation)
    bench.delete("calc:v1")
    seen.append(bench.store.generation)
    assert len(set(seen)) == 5
    bench.store.resolve("calc")
    assert bench.store.generation == seen[-1]


# Finding


@pytest.mark.parametrize("reference", ["calc", "calc:v1", "sha256:" + UNKNOWN])
def test_what_is_not_there_is_not_found(bench: Bench, reference: str) -> None:
    with pytest.raises(ArtifactNotFound, match=reference):
        bench.store.resolve(reference)
    with pytest.raises(ArtifactNotFound):
        bench.delete(reference)


def test_unknown_digests_are_not_found_and_have_no_file(bench: Bench) -> None:
    with pytest.raises(ArtifactNotFound):
        bench.store.get(UNKNOWN)
    with pytest.raises(ArtifactDeleted):
        bench.store.path(UNKNOWN)


def test_a_digest_under_a_version_that_it_does_not_have_is_not_found(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    with pytest.raises(ArtifactNotFound):
        bench.store.resolve("sha256:" + digest_of(ONE), "v2")


def test_malformed_references_are_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest):
        bench.store.resolve("a b")
    with pytest.raises(InvalidRequest):
        bench.store.resolve("calc:v1", "v2")
    for ask in (bench.store.get, bench.store.path):
        with pytest.raises(InvalidRequest):
            ask("../../etc/passwd")


# Lists


def test_pages_go_through_all_artifacts_in_the_order_of_creation(bench: Bench) -> None:
    created = [f"name{number}:v" for number in random.Random(7).sample(range(100), 7)]
    for reference in created:
        bench.put(reference.encode(), *reference.split(":"))
    listed, token = [], ""
    while True:
        page, token = bench.store.list("", 3, token)
        assert len(page) <= 3
        listed += [f"{found.name}:{found.version}" for found in page]
        if not token:
            break
    assert listed == created


def test_the_last_full_page_says_that_it_is_the_last(bench: Bench) -> None:
    bench.put(ONE, "a")
    bench.put(TWO, "b")
    page, token = bench.store.list("", 2, "")
    assert (len(page), token) == (2, "")


def test_only_names_that_begin_with_the_prefix_are_listed(bench: Bench) -> None:
    for name in ("team/a", "team/b", "teamwork", "other", "Team/c", "t.am/x"):
        bench.put(ONE, name, "v")
    assert bench.names("team/") == ["team/a:v", "team/b:v"]
    assert bench.names("t") == ["team/a:v", "team/b:v", "teamwork:v", "t.am/x:v"]
    assert bench.names("t_am") == [], "no pattern means anything"


def test_no_page_has_more_than_a_thousand_and_none_said_is_a_hundred(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def page(prefix: str, *, after: int, size: int) -> tuple[list[StoredArtifact], int | None]:
        asked.append(size)
        return [], None

    monkeypatch.setattr(bench.store._catalog, "page", page)
    for size in (0, 1, 1000, 1001, 2**31 - 1):
        bench.store.list("", size, "")
    assert asked == [100, 1, 1000, 1000, 1000]


def test_pages_of_talkative_modules_end_early_and_hold_one_at_least(bench: Bench) -> None:
    bench.compiler.info = module_info(*(f"function{number}" for number in range(5000)))
    weight = len(msgspec.json.encode(bench.compiler.info))
    assert catalog.PAGE_BYTES / 3 < weight < catalog.PAGE_BYTES / 2
    for number in range(3):
        bench.put(b"module %d" % number, f"m{number}")
    bench.compiler.info = module_info("x" * (2 * catalog.PAGE_BYTES))
    bench.put(b"huge", "huge")
    pages, token = [], ""
    while True:
        page, token = bench.store.list("", 0, token)
        pages.append([found.name for found in page])
        if not token:
            break
    assert pages == [["m0", "m1"], ["m2"], ["huge"]]


def test_labels_count_against_a_page_too(bench: Bench) -> None:
    labels = {f"k{number}": "v" * 1024 for number in range(32)}
    for number in range(40):
        bench.upload(ONE, "calc", f"v{number}", labels=labels)
    page, token = bench.store.list("", 1000, "")
    assert sum(len(msgspec.json.encode(found.labels)) for found in page) <= catalog.PAGE_BYTES
    assert token


@pytest.mark.parametrize(
    "token", ["!", "AAAA", "LTE=", "é", "MTI=" * 20, "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ==", "1"]
)
def test_a_token_that_we_did_not_give_is_refused(bench: Bench, token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        bench.store.list("", 0, token)


@pytest.mark.parametrize("arguments", [("a b", 0), ("", -1)])
def test_malformed_lists_are_refused(bench: Bench, arguments: tuple[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        bench.store.list(*arguments, "")


def test_a_token_outlives_what_it_points_at(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.put(name.encode(), name, "v")
    _, token = bench.store.list("", 2, "")
    bench.delete("b")
    bench.delete("c")
    bench.put(b"d", "d", "v")
    assert [found.name for found in bench.store.list("", 2, token)[0]] == ["d"]


# Deleting


def test_deleting_the_last_name_deletes_everything(bench: Bench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    bench.code.load(stored.digest, bench.store.path(stored.digest), metered=True)
    bench.delete("calc:v1")
    with pytest.raises(ArtifactNotFound):
        bench.store.resolve("calc")
    with pytest.raises(ArtifactDeleted):
        bench.store.path(stored.digest)
    assert bench.store.counts() == (0, 0)
    assert bench.files("artifacts") == bench.files("code") == []


def test_deleting_one_of_several_names_leaves_the_bytes(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v1")
    bench.delete("calc", in_use=lambda digest: True)
    assert bench.names() == ["sums:v1"]
    assert bench.store.path(digest_of(ONE)).exists()


def test_deleting_the_last_name_leaves_bytes_that_were_stored_by_digest(bench: Bench) -> None:
    bench.put(ONE)
    bench.put(ONE, "calc", "v1")
    bench.delete("calc")
    assert bench.store.get(digest_of(ONE)).name == ""


def test_deleting_a_bare_name_deletes_its_newest_version(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "calc", "v2")
    bench.delete("calc")
    assert bench.names() == ["calc:v1"]


def test_deleting_a_digest_deletes_all_of_its_names(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v1")
    bench.put(ONE)
    bench.delete("sha256:" + digest_of(ONE))
    assert bench.names() == []


@pytest.mark.parametrize("reference", ["calc", "calc:v1", "sha256:" + digest_of(ONE)])
def test_what_is_in_use_is_deleted_by_force_only(bench: Bench, reference: str) -> None:
    bench.put(ONE, "calc", "v1")
    asked: list[str] = []

    def in_use(digest: str) -> bool:
        asked.append(digest)
        return True

    with pytest.raises(ArtifactInUse):
        bench.delete(reference, in_use=in_use)
    assert asked == [digest_of(ONE)]
    assert bench.store.path(digest_of(ONE)).exists()
    bench.delete(reference, in_use=in_use, force=True)
    assert bench.store.counts() == (0, 0)


def test_the_question_whether_it_is_in_use_may_use_the_store(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "sums", "v1")

    def in_use(digest: str) -> bool:
        bench.delete("sums")
        return bench.store.get(digest).name != "calc"

    bench.delete("calc", in_use=in_use)
    assert bench.names() == []


def test_a_name_that_comes_while_the_last_is_deleted_keeps_the_bytes(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")

    def in_use(digest: str) -> bool:
        bench.put(ONE, "sums", "v1")
        return False

    bench.delete("calc", in_use=in_use)
    assert bench.names() == ["sums:v1"]
    assert bench.store.path(digest_of(ONE)).read_bytes() == ONE


def test_a_name_that_comes_while_a_digest_is_deleted_goes_too(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    asked: list[str] = []

    def in_use(digest: str) -> bool:
        asked.append(digest)
        bench.put(ONE, "sums", "v1")
        return False

    bench.delete("sha256:" + digest_of(ONE), in_use=in_use)
    assert len(asked) == 2, "the question was another one"
    assert bench.store.counts() == (0, 0)


def test_two_who_delete_the_same_at_once_delete_it_once(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")

    def in_use(digest: str) -> bool:
        bench.delete("calc:v1")
        return False

    with pytest.raises(ArtifactNotFound):
        bench.delete("calc:v1", in_use=in_use)


def test_deleted_bytes_may_be_uploaded_again(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.delete("calc")
    assert bench.upload(ONE, "calc", "v1")[1]
    assert len(bench.compiler.compiled) == 2


def test_a_deleted_version_may_get_other_bytes(bench: Bench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.delete("calc:v1")
    assert bench.put(TWO, "calc", "v1").digest == digest_of(TWO)


def test_a_file_that_somebody_removed_counts_as_deleted_until_it_is_uploaded_again(bench: Bench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    (bench.directory / "artifacts" / f"{stored.digest}.wasm").unlink()
    with pytest.raises(ArtifactDeleted, match="upload it again"):
        bench.store.path(stored.digest)
    bench.put(ONE, "calc", "v1")
    assert bench.store.path(stored.digest).read_bytes() == ONE


# Crashes


CRASH = """
import os, sys
from pathlib import Path
from spear_wasm.artifacts.catalog import Catalog
from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import ArtifactsConfig
from tests.artifacts.fakes import FakeCompiler

directory = Path(sys.argv[1])
store = ArtifactStore(directory, ArtifactsConfig(), CodeCache(directory, FakeCompiler()))
upload = store.begin_upload("kept", "v", "", 0, {})
upload.write(b"kept")
upload.finish()
broken_off = store.begin_upload("", "", "", 0, {})
broken_off.write(b"half")
Catalog.enter = lambda *arguments, **options: os._exit(42)
lost = store.begin_upload("lost", "v", "", 0, {})
lost.write(b"lost")
lost.finish()
"""


def test_a_crash_between_the_file_and_its_row_leaves_nothing_after_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(directory)], env=environment, check=False, timeout=50
    )
    assert crashed.returncode == 42
    assert (directory / "artifacts" / f"{digest_of(b'lost')}.wasm").exists()
    assert len(list((directory / "uploads").iterdir())) == 1
    bench = Bench(tmp_path, FakeCompiler())
    assert bench.names() == ["kept:v"]
    assert bench.files("artifacts") == [digest_of(b"kept") + ".wasm"]
    bench.check()
    bench.store.close()


def test_rows_whose_files_are_gone_or_cut_go_at_the_next_start(bench: Bench) -> None:
    gone, cut, kept = (
        bench.put(wasm, name, "v") for wasm, name in ((ONE, "gone"), (TWO, "cut"), (THREE, "kept"))
    )
    bench.put(ONE, "gone-too", "v")
    bench.store.path(gone.digest).unlink()
    path = bench.store.path(cut.digest)
    path.chmod(0o600)
    path.write_bytes(TWO[:-1])
    bench.opened()
    assert bench.names() == ["kept:v"]
    assert bench.files("artifacts") == [kept.digest + ".wasm"]
    bench.put(ONE, "gone", "v")


def test_a_failed_commit_takes_the_file_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Catalog, "enter", fail)
    with pytest.raises(sqlite3.OperationalError):
        bench.upload(ONE, "calc")
    assert bench.files("artifacts") == bench.files("code") == []


def test_files_of_other_names_are_left_alone(bench: Bench) -> None:
    for place in ("artifacts/README", "uploads/README", "artifacts/x.wasm"):
        (bench.directory / place).write_text("not yours")
    bench.opened()
    for place in ("artifacts/README", "uploads/README", "artifacts/x.wasm"):
        (bench.directory / place).unlink()


# One process, one catalogue


def test_a_directory_has_one_store_at_a_time_and_the_error_says_whose(bench: Bench) -> None:
    bench.put(ONE, "calc")
    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}") as caught:
        ArtifactStore(bench.directory, bench.config, CodeCache(bench.directory, FakeCompiler("other")))
    assert caught.value.metadata["pid"] == str(os.getpid())
    assert len(bench.files("code")) == 2, "who is refused removes nothing"
    bench.opened()


def test_closing_again_is_harmless(bench: Bench) -> None:
    bench.store.close()
    bench.store.close()
    bench.opened()


def test_a_store_is_closed_at_the_end_of_its_block(tmp_path: Path, compiler: FakeCompiler) -> None:
    for _ in range(2):
        with ArtifactStore(tmp_path, ArtifactsConfig(), CodeCache(tmp_path, compiler)) as store:
            assert store.counts() == (0, 0)


def test_an_upload_that_outlives_its_store_leaves_nothing(bench: Bench) -> None:
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
        ArtifactStore(tmp_path, ArtifactsConfig(), CodeCache(tmp_path, FakeCompiler()))


def test_a_catalogue_of_a_newer_version_is_not_touched(bench: Bench) -> None:
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
            ArtifactStore(tmp_path, ArtifactsConfig(), CodeCache(tmp_path, FakeCompiler()))
