from __future__ import annotations

import pytest

from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactInUse,
    ArtifactNotFound,
)
from tests.artifacts.fakes import digest_of
from tests.artifacts.store_bench import ONE, TWO, StoreBench


def test_deleting_the_last_name_deletes_everything(bench: StoreBench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    bench.code.load(stored.digest, bench.store.path(stored.digest), metered=True)
    bench.delete("calc:v1")
    with pytest.raises(ArtifactNotFound):
        bench.store.resolve("calc")
    with pytest.raises(ArtifactDeleted):
        bench.store.path(stored.digest)
    assert bench.store.counts() == (0, 0)
    assert bench.files("artifacts") == bench.files("code") == []


def test_deleting_one_of_several_names_leaves_the_bytes(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v1")
    bench.delete("calc", in_use=lambda digest: True)
    assert bench.names() == ["sums:v1"]
    assert bench.store.path(digest_of(ONE)).exists()


def test_deleting_the_last_name_leaves_bytes_that_were_stored_by_digest(bench: StoreBench) -> None:
    bench.put(ONE)
    bench.put(ONE, "calc", "v1")
    bench.delete("calc")
    assert bench.store.get(digest_of(ONE)).name == ""


def test_deleting_a_bare_name_deletes_its_newest_version(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "calc", "v2")
    bench.delete("calc")
    assert bench.names() == ["calc:v1"]


def test_deleting_a_digest_deletes_all_of_its_names(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(ONE, "sums", "v1")
    bench.put(ONE)
    bench.delete("sha256:" + digest_of(ONE))
    assert bench.names() == []


@pytest.mark.parametrize("reference", ["calc", "calc:v1", "sha256:" + digest_of(ONE)])
def test_what_is_in_use_is_deleted_by_force_only(bench: StoreBench, reference: str) -> None:
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


def test_the_question_whether_it_is_in_use_may_use_the_store(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.put(TWO, "sums", "v1")

    def in_use(digest: str) -> bool:
        bench.delete("sums")
        return bench.store.get(digest).name != "calc"

    bench.delete("calc", in_use=in_use)
    assert bench.names() == []


def test_a_name_that_comes_while_the_last_is_deleted_keeps_the_bytes(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")

    def in_use(digest: str) -> bool:
        bench.put(ONE, "sums", "v1")
        return False

    bench.delete("calc", in_use=in_use)
    assert bench.names() == ["sums:v1"]
    assert bench.store.path(digest_of(ONE)).read_bytes() == ONE


def test_a_name_that_comes_while_a_digest_is_deleted_goes_too(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    asked: list[str] = []

    def in_use(digest: str) -> bool:
        asked.append(digest)
        bench.put(ONE, "sums", "v1")
        return False

    bench.delete("sha256:" + digest_of(ONE), in_use=in_use)
    assert len(asked) == 2, "the question was another one"
    assert bench.store.counts() == (0, 0)


def test_two_who_delete_the_same_at_once_delete_it_once(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")

    def in_use(digest: str) -> bool:
        bench.delete("calc:v1")
        return False

    with pytest.raises(ArtifactNotFound):
        bench.delete("calc:v1", in_use=in_use)


def test_deleted_bytes_may_be_uploaded_again(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.delete("calc")
    assert bench.upload(ONE, "calc", "v1")[1]
    assert len(bench.compiler.compiled) == 2


def test_a_deleted_version_may_get_other_bytes(bench: StoreBench) -> None:
    bench.put(ONE, "calc", "v1")
    bench.delete("calc:v1")
    assert bench.put(TWO, "calc", "v1").digest == digest_of(TWO)


def test_a_file_that_somebody_removed_counts_as_deleted_until_it_is_uploaded_again(bench: StoreBench) -> None:
    stored = bench.put(ONE, "calc", "v1")
    (bench.directory / "artifacts" / f"{stored.digest}.wasm").unlink()
    with pytest.raises(ArtifactDeleted, match="upload it again"):
        bench.store.path(stored.digest)
    bench.put(ONE, "calc", "v1")
    assert bench.store.path(stored.digest).read_bytes() == ONE
