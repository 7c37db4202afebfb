from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from spear_wasm.artifacts import catalog
from spear_wasm.artifacts.store import Upload
from spear_wasm.artifacts.upload import StagedBytes
from spear_wasm.config import ArtifactsConfig, Size
from spear_wasm.errors import (
    ArtifactTooLarge,
    ChecksumMismatch,
    CompileRefused,
    InvalidArtifact,
    InvalidRequest,
    StorageFull,
    TooManyUploads,
    VersionExists,
)
from tests.artifacts.fakes import Background, Followers, Gate, digest_of, module_info
from tests.artifacts.store_bench import ONE, TWO, StoreBench

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
def test_a_malformed_header_is_refused(bench: StoreBench, header: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        bench.begin(**header)


def test_the_largest_labels_are_kept(bench: StoreBench) -> None:
    labels = {f"{number:02}" + "k" * 126: "v" * 1024 for number in range(32)}
    assert bench.upload(ONE, "calc", labels=labels)[0].labels == labels
    bench.opened()
    assert bench.store.resolve("calc").labels == labels


# Bounds


def test_an_announced_size_above_the_bound_is_refused_before_any_bytes(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with pytest.raises(ArtifactTooLarge):
        bench.begin(size=11)
    bench.begin(size=10).close()


def test_bytes_above_the_bound_are_refused_when_they_come(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with bench.begin() as upload:
        upload.write(b"x" * 10)
        with pytest.raises(ArtifactTooLarge, match="11 bytes"):
            upload.write(b"x")
        assert bench.files("uploads") == [], "an upload that failed leaves nothing, even before its end"


def test_a_disk_that_is_full_of_artifacts_takes_no_more(bench: StoreBench) -> None:
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


def test_concurrent_uploads_together_stay_within_the_disk(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_disk=Size(100)))
    with bench.begin(size=60) as one, bench.begin(size=60) as two:
        one.write(b"x" * 50)
        two.write(b"x" * 50)
        assert bench.store.counts() == (0, 100)
        with pytest.raises(StorageFull):
            one.write(b"x")
        assert bench.store.counts() == (0, 50), "what was broken off makes room"
        two.write(b"x" * 10)


def test_machine_code_counts_as_bytes_on_disk(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_disk=Size(len(ONE) + 10)))
    with pytest.raises(StorageFull):
        bench.upload(ONE, "calc")
    assert bench.store.counts() == (0, 0)
    assert bench.files("code") == []


def test_deleting_makes_room(bench: StoreBench) -> None:
    bench.put(ONE, "calc")
    bench.opened(ArtifactsConfig(max_disk=Size(bench.store.counts()[1])))
    with pytest.raises(StorageFull):
        bench.upload(TWO, "sums")
    bench.delete("calc")
    bench.put(TWO, "sums")


def test_as_many_names_as_the_server_keeps_and_no_more(bench: StoreBench) -> None:
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


def test_as_many_uploads_at_once_as_the_server_takes_and_no_more(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_uploads=2))
    with bench.begin(), bench.begin():
        with pytest.raises(TooManyUploads) as caught:
            bench.begin()
        assert caught.value.retry_after is not None
    bench.put(ONE)


def test_a_refused_header_takes_no_slot(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_uploads=1, max_artifact=Size(10)))
    with pytest.raises(ArtifactTooLarge):
        bench.begin(size=11)
    bench.begin().close()


def test_an_upload_that_cannot_be_made_takes_no_slot(bench: StoreBench) -> None:
    (bench.directory / "uploads").rmdir()
    for _ in range(bench.config.max_uploads + 1):
        with pytest.raises(FileNotFoundError):
            bench.begin()
    (bench.directory / "uploads").mkdir()


# Uploads that come to nothing


def test_an_upload_that_is_broken_off_leaves_nothing(bench: StoreBench) -> None:
    with bench.begin("calc") as upload:
        upload.write(ONE)
        assert len(bench.files("uploads")) == 1
    assert bench.store.counts() == (0, 0)
    assert bench.files("uploads") == []


def test_an_upload_whose_caller_fails_leaves_nothing(bench: StoreBench) -> None:
    def fail() -> None:
        with bench.begin("calc") as upload:
            upload.write(ONE)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert bench.store.counts() == (0, 0)


@pytest.mark.parametrize("announced", [digest_of(TWO), "sha256:" + digest_of(TWO).upper()])
def test_bytes_that_are_not_the_announced_ones_are_refused(bench: StoreBench, announced: str) -> None:
    with pytest.raises(ChecksumMismatch, match=digest_of(ONE)):
        bench.upload(ONE, "calc", checksum=announced)
    assert bench.compiler.compiled == []


def test_fewer_bytes_than_announced_are_refused(bench: StoreBench) -> None:
    with pytest.raises(ChecksumMismatch, match=f"{len(ONE)} bytes came of the {len(ONE) + 1}"):
        bench.upload(ONE, "calc", size=len(ONE) + 1)


def test_more_bytes_than_announced_are_refused_when_they_come(bench: StoreBench) -> None:
    with bench.begin("calc", size=len(ONE)) as upload:
        upload.write(ONE)
        with pytest.raises(ChecksumMismatch, match="more bytes"):
            upload.write(b"!")


@pytest.mark.parametrize(
    ("wasm", "error"),
    [(b"invalid", InvalidArtifact), (b"bomb", CompileRefused)],
)
def test_a_module_that_does_not_compile_leaves_nothing(
    bench: StoreBench, wasm: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bench.upload(wasm, "calc")
    assert bench.names() == []
    assert bench.files("artifacts") == bench.files("code") == []


@pytest.mark.parametrize("end", [Upload.close, Upload.finish])
def test_an_upload_that_is_over_takes_nothing_more(
    bench: StoreBench, end: Callable[[Upload], object]
) -> None:
    with bench.begin("calc") as upload:
        upload.write(ONE)
        end(upload)
        for again in (lambda: upload.write(b"more"), upload.finish):
            with pytest.raises(ValueError, match="over"):
                again()
        upload.close()


def test_an_upload_after_an_error_cannot_go_on_with_a_hole(bench: StoreBench) -> None:
    bench.opened(ArtifactsConfig(max_artifact=Size(10)))
    with bench.begin() as upload:
        with pytest.raises(ArtifactTooLarge):
            upload.write(b"x" * 11)
        with pytest.raises(ValueError, match="over"):
            upload.write(b"x")


def test_a_full_disk_under_an_upload_is_storage_full(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spear_wasm.artifacts.upload.os.fsync", full)
    with pytest.raises(StorageFull):
        bench.upload(ONE, "calc")


def test_a_full_disk_under_the_catalogue_is_storage_full(bench: StoreBench) -> None:
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
    bench: StoreBench, background: Background, followers: Followers
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


def test_other_bytes_for_one_version_at_once_leave_one_winner(
    bench: StoreBench, background: Background
) -> None:
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
    bench: StoreBench, background: Background, followers: Followers
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


def test_an_upload_that_is_being_finished_is_closed_when_it_is(
    bench: StoreBench, background: Background
) -> None:
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


def test_bytes_that_are_deleted_while_they_are_uploaded_again_are_stored_again(bench: StoreBench) -> None:
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


def test_a_generation_ends_when_names_change(bench: StoreBench) -> None:
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
