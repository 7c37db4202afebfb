"""Uploads, names and versions, lists and removal; and what the disk holds afterwards."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from spear_wasm.api import artifact_pb2 as pb
from spear_wasm.errors import (
    ArtifactDeleted,
    ArtifactInUse,
    ArtifactNotFound,
    ArtifactTooLarge,
    ChecksumMismatch,
    FunctionNotFound,
    InvalidArtifact,
    InvalidRequest,
    SpearError,
    StorageFull,
    TooManyUploads,
    UnlinkableArtifact,
    UploadStalled,
    VersionExists,
)
from tests.engine.modules_by_hand import custom, export, functions
from tests.rpc.conftest import StartServer
from tests.rpc.modules import long_export, long_names, many_exports, unique_module
from tests.rpc.serving import (
    PATIENCE,
    Refusal,
    Server,
    fixture,
    fresh,
    limits,
    read_refusal,
    refused,
    until,
    value_of,
)

PAGE_BYTES = 1 << 20
LONGEST_NAME = 100_000
IMPATIENT = '[artifacts]\nupload_idle_timeout = "500ms"'
"""For servers of which nothing is asked but to give up; the others have patience with slow machines."""


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(server: Server) -> set[Path]:
    """The files of all artifacts and their code, and of uploads."""
    folders = (server.data_dir / "artifacts", server.data_dir / "uploads", server.data_dir / "code")
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


class Sender:
    """An upload whose parts are sent when the test says so."""

    def __init__(self, server: Server, **header: object) -> None:
        self._server = server
        self._go_on = threading.Semaphore(0)
        self._parts: list[pb.UploadArtifactRequest] = []
        self._header = pb.UploadArtifactHeader(**header)  # type: ignore[arg-type]  # as the test has it
        self.call = server.artifacts.UploadArtifact.future(self._all_parts(), timeout=PATIENCE)

    def _all_parts(self) -> Iterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(header=self._header)
        while self._go_on.acquire() and self._parts:
            yield self._parts.pop(0)

    def send(self, chunk: bytes) -> None:
        self._parts.append(pb.UploadArtifactRequest(chunk=chunk))
        self._go_on.release()

    def finish(self) -> pb.UploadArtifactResponse:
        self._go_on.release()
        return self.call.result(PATIENCE)

    def break_off(self) -> None:
        self.call.cancel()
        self._go_on.release()


# --- uploads ----------------------------------------------------------------------------------------------


def test_an_upload_tells_what_the_module_offers(server: Server) -> None:
    info = server.artifact("calc:1")
    assert info.digest == f"sha256:{digest_of(fixture('calc'))}"
    assert (info.name, info.version, info.runtime_type) == ("calc", "1", "core")
    assert info.size_bytes == len(fixture("calc"))
    assert info.compile_time_ms > 0
    assert info.created_at.seconds > 0
    signatures = {each.name: each for each in info.functions}
    assert [(each.name, each.type) for each in signatures["divide"].params] == [
        ("dividend", "i32"), ("divisor", "i32")
    ]  # fmt: skip
    assert [each.type for each in signatures["divmod"].results] == ["i32", "i32"]
    assert "opaque" not in signatures


def test_an_upload_tells_what_the_module_asks_for(server: Server) -> None:
    needed = {each.name: (each.module, each.type) for each in server.artifact("host_calls").imports}
    assert needed["sleep_ms"] == ("spear", "(i32) -> ()")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("needs_import", "'env'.'mystery'"), ("wrong_import", "'spear'.'log' (i64) -> (i32) (here it is")],
)
def test_what_no_runtime_can_run_is_not_taken(name: str, complaint: str, server: Server) -> None:
    before = files(server)
    refusal = refused(UnlinkableArtifact, lambda: server.upload(fixture(name), name))
    assert complaint in refusal.message
    refused(ArtifactNotFound, lambda: server.artifact(name))
    assert files(server) == before


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_chunks_may_have_any_size(chunk: int, server: Server) -> None:
    content = unique_module(fresh("module"))
    sender = Sender(server, name=fresh("artifact"))
    for start in range(0, len(content), chunk):
        sender.send(content[start : start + chunk])
    sender.send(b"")
    assert sender.finish().artifact.digest == f"sha256:{digest_of(content)}"


def test_bytes_that_are_here_already_are_not_created_again(server: Server) -> None:
    content, name = unique_module(fresh("module")), fresh("artifact")
    first = server.upload(content, name, "1", labels={"team": "blue"})
    again = server.upload(content, name, "1", labels={"team": "red"})
    elsewhere = server.upload(content, fresh("artifact"), "2")
    assert (first.created, again.created, elsewhere.created) == (True, False, False)
    assert again.artifact.labels == {"team": "blue"}
    assert again.artifact.digest == elsewhere.artifact.digest == first.artifact.digest


def test_a_version_is_made_of_the_digest_where_none_is_given(server: Server) -> None:
    content = unique_module(fresh("module"))
    assert server.upload(content, fresh("artifact")).artifact.version == digest_of(content)[:12]


def test_versions_do_not_move(server: Server) -> None:
    name = fresh("artifact")
    kept = server.upload(unique_module(fresh("module")), name, "1").artifact
    refused(VersionExists, lambda: server.upload(unique_module(fresh("module")), name, "1"))
    assert server.artifact(f"{name}:1").digest == kept.digest


def test_a_name_means_its_newest_upload(server: Server) -> None:
    name = fresh("artifact")
    for version in ("1", "2"):
        server.upload(unique_module(fresh("module")), name, version)
    assert server.artifact(name).version == "2"
    digest = server.artifact(f"{name}:1").digest
    assert server.artifact(digest).name == name


def test_names_have_parts(server: Server) -> None:
    name = f"team/{fresh('artifact')}.v_2-x/y"
    assert server.upload(unique_module(fresh("module")), name).artifact.name == name


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "-a", "a b", "ä", "../../etc/passwd", "a:b", "sha256", "a" * 129, "a/" * 10**6]
)
def test_other_names_are_refused_or_stand_for_the_digest_alone(name: str, server: Server) -> None:
    content = unique_module(fresh("module"))
    if name:
        refused(InvalidRequest, lambda: server.upload(content, name))
    else:
        info = server.upload(content, "").artifact
        assert server.artifact(info.digest).name == ""


@pytest.mark.parametrize("version", ["a/b", "a b", ".", "-", "v" * 129, "v" * 10**6])
def test_other_versions_are_refused(version: str, server: Server) -> None:
    content = unique_module(fresh("module"))
    refused(InvalidRequest, lambda: server.upload(content, fresh("artifact"), version))


def arrived(server: Server, size: int) -> None:
    """Wait until so many bytes of the upload that is under way are on disk."""
    until(lambda: [path.stat().st_size for path in server.uploads_in_progress()] == [size])


# --- uploads that fail ------------------------------------------------------------------------------------


def leaves_nothing(server: Server, kind: type[SpearError], content: bytes, **header: Any) -> Refusal:
    before, name = files(server), fresh("artifact")
    refusal = refused(kind, lambda: server.upload(content, name, **header))
    until(lambda: not server.uploads_in_progress())
    assert files(server) == before
    refused(ArtifactNotFound, lambda: server.artifact(name))
    return refusal


def test_a_wrong_checksum_leaves_nothing(server: Server) -> None:
    content = unique_module(fresh("module"))
    leaves_nothing(server, ChecksumMismatch, content, checksum="0" * 64)
    leaves_nothing(server, InvalidRequest, content, checksum="not hex")


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_the_right_checksum_is_fine_with_or_without_its_prefix(prefix: str, server: Server) -> None:
    content = unique_module(fresh("module"))
    assert server.upload(content, fresh("artifact"), checksum=prefix + digest_of(content).upper()).created


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_wrong_size_leaves_nothing(difference: int, server: Server) -> None:
    content = unique_module(fresh("module"))
    leaves_nothing(server, ChecksumMismatch, content, size_bytes=len(content) + difference)


def test_too_large_an_upload_leaves_nothing(server: Server) -> None:
    content = functions(1, export("answer"), after=custom("bulk", bytes(4 << 20)))
    leaves_nothing(server, ArtifactTooLarge, content)
    leaves_nothing(server, ArtifactTooLarge, content, size_bytes=len(content))


def test_a_module_that_is_none_leaves_nothing(server: Server) -> None:
    leaves_nothing(server, InvalidArtifact, unique_module(fresh("module"))[:-3])


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    before, content = files(server), unique_module(fresh("module"))
    sender = Sender(server, name=fresh("artifact"))
    sender.send(content[:10])
    arrived(server, 10)
    sender.break_off()
    until(lambda: files(server) == before)
    refused(ArtifactNotFound, lambda: server.artifact(f"sha256:{digest_of(content)}"))


def test_an_upload_that_breaks_off_where_a_module_could_end_leaves_nothing(server: Server) -> None:
    """The bytes are a module; that they are all of it, nobody has said."""
    known = unique_module(fresh("module"))
    server.upload(known, fresh("artifact"))
    before, names = files(server), [fresh("artifact") for _ in range(8)]
    for turn, name in enumerate(names):
        content = known if turn % 2 else unique_module(name)
        sender = Sender(server, name=name)
        sender.send(content)
        arrived(server, len(content))
        sender.break_off()
        until(lambda: not server.uploads_in_progress())
        refused(ArtifactNotFound, partial(server.artifact, name))
    assert files(server) == before


def test_an_upload_that_sends_nothing_for_too_long_is_ended(start_server: StartServer) -> None:
    server = start_server(IMPATIENT)
    before = files(server)
    sender = Sender(server, name=fresh("artifact"))
    sender.send(b"\0asm")
    refused(UploadStalled, lambda: sender.call.result(PATIENCE))
    sender.break_off()
    until(lambda: files(server) == before)


def test_an_upload_of_which_nothing_comes_is_ended(start_server: StartServer) -> None:
    server, silent = start_server(IMPATIENT), threading.Event()

    def no_parts() -> Iterator[pb.UploadArtifactRequest]:
        silent.wait(PATIENCE)
        yield from ()

    refused(UploadStalled, lambda: server.artifacts.UploadArtifact(no_parts(), timeout=PATIENCE))
    silent.set()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [pb.UploadArtifactRequest(chunk=b"\0asm")],
        [pb.UploadArtifactRequest()],
        [pb.UploadArtifactRequest(header=pb.UploadArtifactHeader(name="twice"))] * 2,
        [pb.UploadArtifactRequest(header=pb.UploadArtifactHeader(name="hole")), pb.UploadArtifactRequest()],
    ],
    ids=["nothing", "no-header", "empty-part", "two-headers", "hole"],
)
def test_parts_in_the_wrong_order_are_refused(parts: list[pb.UploadArtifactRequest], server: Server) -> None:
    refused(InvalidRequest, lambda: server.artifacts.UploadArtifact(iter(parts), timeout=PATIENCE))
    until(lambda: not server.uploads_in_progress())


def test_an_upload_without_bytes_is_no_module(server: Server) -> None:
    leaves_nothing(server, InvalidArtifact, b"")


@pytest.mark.parametrize(
    "labels",
    [{"": "x"}, {"k" * 129: "x"}, {"k": "v" * 1025}, {f"k{number}": "v" for number in range(33)}, {"k": "v" * 10**6}],
    ids=["empty", "long-key", "long-value", "many", "megabyte"],
)  # fmt: skip
def test_labels_are_bounded(labels: dict[str, str], server: Server) -> None:
    leaves_nothing(server, InvalidRequest, unique_module(fresh("module")), labels=labels)


def test_as_many_uploads_at_once_as_the_bound_says(start_server: StartServer) -> None:
    server = start_server("[artifacts]\nmax_uploads = 2")
    senders = [Sender(server, name=f"a{number}") for number in range(2)]
    until(lambda: len(server.uploads_in_progress()) == 2)
    refusal = refused(TooManyUploads, lambda: server.upload(fixture("calc"), "calc"))
    assert refusal.retry_after
    senders[0].break_off()
    until(lambda: is_taken(server, fixture("calc"), "calc"))  # its place comes free after its file is gone
    senders[1].break_off()


def is_taken(server: Server, content: bytes, name: str) -> bool:
    """Whether an upload is created that may find too many others."""
    try:
        return server.upload(content, name).created
    except grpc.RpcError as error:
        reason = read_refusal(error).reason
    assert reason == TooManyUploads.reason
    return False


# --- bounds of the store ----------------------------------------------------------------------------------


def test_the_number_of_artifacts_is_bounded(start_server: StartServer) -> None:
    server = start_server("[artifacts]\nmax_artifacts = 2")
    for label in ("one", "two"):
        server.upload(unique_module(label), label)
    refused(StorageFull, lambda: server.upload(unique_module("three"), "three"))
    assert server.delete_artifact("one")
    assert server.upload(unique_module("three"), "three").created


def test_bytes_on_disk_are_bounded_machine_code_included(start_server: StartServer) -> None:
    server = start_server('[artifacts]\nmax_disk = "100KiB"')

    def bulky(label: str) -> bytes:
        return functions(1, export("answer"), after=custom(label, bytes(30 << 10)))

    stored = 0
    refusal = None
    while refusal is None and stored < 4:
        try:
            server.upload(bulky(str(stored)), f"bulky-{stored}")
            stored += 1
        except grpc.RpcError:
            refusal = refused(StorageFull, lambda: server.upload(bulky("next"), "next"))
    assert 1 <= stored < 4
    refused(StorageFull, lambda: server.upload(bulky("said"), "said", size_bytes=90 << 10))
    assert sum(path.stat().st_size for path in files(server)) <= 100 << 10
    assert server.delete_artifact("bulky-0")
    assert server.upload(bulky("next"), "next").created


def test_machine_code_larger_than_what_is_left_is_not_even_written(start_server: StartServer) -> None:
    server = start_server('[artifacts]\nmax_disk = "256KiB"')
    server.upload(unique_module("small"), "small")
    (folder,) = (server.data_dir / "code").iterdir()
    before = folder.stat().st_mtime_ns
    much_code = functions(5000)
    assert len(much_code) < 64 << 10
    refused(StorageFull, lambda: server.upload(much_code, "large"))
    assert folder.stat().st_mtime_ns == before, "a file was there"
    assert not server.uploads_in_progress()
    assert server.upload(unique_module("another"), "another").created


def test_code_that_a_metered_call_needs_is_bounded_too_and_does_not_stay_where_it_is_refused(
    start_server: StartServer, tmp_path: Path
) -> None:
    before = start_server(directory=tmp_path)
    before.upload(fixture("calc"), "calc")
    taken = sum(path.stat().st_size for path in files(before))
    before.stop()
    server = start_server(f"[artifacts]\nmax_disk = {taken + 100}", tmp_path)
    assert sum(path.stat().st_size for path in files(server)) == taken
    metered = limits(max_fuel=10**6)
    refusal = refused(StorageFull, lambda: server.call("calc", "answer", limits=metered))
    assert refusal.retry_after is not None
    assert sum(path.stat().st_size for path in files(server)) == taken
    name = fresh("task")
    spec = {"resource_limits": metered}
    refused(StorageFull, lambda: server.call("calc", "answer", spec=spec, task_name=name))
    assert not server.get_task(name).found
    assert value_of(server.call("calc", "answer")) == 42


# --- lists ------------------------------------------------------------------------------------------------


def listed(server: Server, **fields: object) -> pb.ListArtifactsResponse:
    request = pb.ListArtifactsRequest(**fields)  # type: ignore[arg-type]  # as the test has it
    page = server.artifacts.ListArtifacts(request, timeout=PATIENCE)
    assert page.ByteSize() < PAGE_BYTES
    return page


def test_pages_follow_each_other_in_the_order_of_creation(server: Server) -> None:
    prefix = fresh("listed")
    names = [f"{prefix}/{number}" for number in (3, 1, 2, 5, 4)]
    for name in names:
        server.upload(unique_module(name), name)
    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = listed(server, prefix=prefix + "/", page_size=2, page_token=token)
        seen += [artifact.name for artifact in page.artifacts]
        token, pages = page.next_page_token, pages + 1
    assert (seen, pages) == (names, 3)


def test_a_prefix_that_nothing_has_lists_nothing(server: Server) -> None:
    page = listed(server, prefix="nothing-begins-like-this")
    assert not page.artifacts
    assert not page.next_page_token


@pytest.mark.parametrize(
    "fields",
    [{"page_size": -1}, {"page_token": "made up"}, {"page_token": "x" * 10**6}, {"prefix": "no such%"},
     {"prefix": "p" * 10**6}],
    ids=["size", "token", "megabyte-token", "prefix", "megabyte-prefix"],
)  # fmt: skip
def test_a_list_that_makes_no_sense_is_refused(fields: dict[str, object], server: Server) -> None:
    refused(InvalidRequest, lambda: listed(server, **fields))


@pytest.mark.parametrize("reference", ["", "a b", "sha256:xyz", "name:", "n" * 10**6])
def test_a_reference_that_makes_no_sense_is_refused(reference: str, server: Server) -> None:
    refused(InvalidRequest, lambda: server.artifact(reference))
    refused(InvalidRequest, lambda: server.delete_artifact(reference))


def test_an_unknown_reference_is_not_found(server: Server) -> None:
    for reference in ("nobody/uploaded.this", "calc:77", "sha256:" + "0" * 64):
        refused(ArtifactNotFound, partial(server.artifact, reference))
        refused(ArtifactNotFound, partial(server.delete_artifact, reference))


# --- removal ----------------------------------------------------------------------------------------------


def test_an_artifact_that_nobody_uses_goes_with_its_files(server: Server) -> None:
    before, name = files(server), fresh("artifact")
    server.upload(unique_module(name), name)
    assert files(server) > before
    assert server.delete_artifact(name)
    assert files(server) == before
    refused(ArtifactNotFound, lambda: server.artifact(name))


def test_bytes_stay_as_long_as_a_name_has_them(server: Server) -> None:
    content, first, second = unique_module(fresh("module")), fresh("artifact"), fresh("artifact")
    server.upload(content, first, "1")
    server.upload(content, second, "1")
    server.delete_artifact(first)
    refused(ArtifactNotFound, lambda: server.artifact(first))
    assert server.artifact(second).digest == f"sha256:{digest_of(content)}"


def test_an_artifact_with_tasks_goes_only_by_force_and_its_tasks_fail_then(server: Server) -> None:
    content, name = functions(1, export("answer"), after=custom(fresh("module"))), fresh("artifact")
    server.upload(content, name, "1")
    task = server.call(name, "answer").task_id
    refused(ArtifactInUse, lambda: server.delete_artifact(name))
    assert server.invoke(task_id=task, function_name="answer").success
    assert server.delete_artifact(name, force=True)
    refused(ArtifactDeleted, lambda: server.invoke(task_id=task, function_name="answer"))
    refused(ArtifactNotFound, lambda: server.call(name, "answer"))
    server.upload(content, name, "1")
    assert server.invoke(task_id=task, function_name="answer").success


def test_a_guest_that_runs_ends_in_peace_when_its_artifact_is_removed(server: Server) -> None:
    name = fresh("artifact")
    server.upload(fixture("hostile") + custom(fresh("module")), name, "1")
    running = server.call_later(name, "spin_for", 1_000_000_000)
    server.wait_for_load(1)
    assert server.delete_artifact(name, force=True)
    assert value_of(running.answer()) == 1_000_000_000


# --- modules that want to be a nuisance -------------------------------------------------------------------


def test_a_hundred_thousand_exports_harm_no_answer_and_no_list(server: Server) -> None:
    name = fresh("bulky")
    answer = server.upload(many_exports(100_000), name)
    assert answer.ByteSize() < 2 << 20
    assert 0 < len(answer.artifact.functions) < 100_000
    assert server.artifact(name).ByteSize() < 2 << 20
    (entry,) = listed(server, prefix=name).artifacts
    assert entry.ByteSize() < 64 << 10
    assert server.call(name, "function-99999").success
    refused(FunctionNotFound, lambda: server.call(name, "function-100000"))
    server.delete_artifact(name, force=True)


def test_names_of_a_megabyte_are_refused(server: Server) -> None:
    leaves_nothing(server, InvalidArtifact, long_names(1_000_000))


def test_the_longest_names_that_wasm_allows_harm_no_answer_and_no_list(server: Server) -> None:
    name = fresh("bulky")
    server.upload(long_names(LONGEST_NAME), name)
    assert server.artifact(name).ByteSize() < 2 << 20
    (entry,) = listed(server, prefix=name).artifacts
    assert entry.ByteSize() < 64 << 10
    assert refused(FunctionNotFound, lambda: server.call(name, "answer")).size < 4096
    server.delete_artifact(name, force=True)


def test_a_function_with_the_longest_name_harms_no_answer(server: Server) -> None:
    name, function = fresh("bulky"), "e" * LONGEST_NAME
    server.upload(long_export(len(function)), name)
    answer = server.call(name, function)
    assert answer.success
    assert answer.ByteSize() < 4096
    refusal = refused(FunctionNotFound, lambda: server.call(name, "f" * 900_000))
    assert len(refusal.message) < 1000
    (execution,) = server.get_task(answer.task_id, include_executions=True).executions
    assert execution.ByteSize() < 4096
    assert server.stats().ByteSize() < 64 << 10


def test_many_artifacts_with_long_names_stay_within_a_page(start_server: StartServer) -> None:
    server = start_server()
    count = 12
    for number in range(count):
        server.upload(functions(1, *(export(f"{'x' * 4000}{each}") for each in range(60)), after=custom(str(number))),
                      f"long/{number}")  # fmt: skip
    page = listed(server)
    seen = len(page.artifacts)
    while page.next_page_token:
        page = listed(server, page_token=page.next_page_token)
        seen += len(page.artifacts)
    assert seen == count
