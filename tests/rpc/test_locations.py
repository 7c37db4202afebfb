"""Artifacts by location: what is fetched, what is refused, and what a fetch that failed leaves behind: nothing."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import (
    ArtifactNotFound,
    ArtifactTooLarge,
    ChecksumMismatch,
    FetchFailed,
    InvalidArtifact,
    InvalidRequest,
    LocationForbidden,
    TooManyUploads,
    VersionExists,
)
from tests.rpc.conftest import TIGHT, StartServer
from tests.rpc.serving import Pending, Server, fixture, fresh, refused, until, value_of
from tests.web import Web, web_server

CALC = fixture("calc")
DIGEST = hashlib.sha256(CALC).hexdigest()
OTHER = fixture("hostile")
MAX_ARTIFACT = 4 << 20


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that files may be fetched from; beside it is one that they may not be."""
    directory = tmp_path_factory.mktemp("files") / "allowed"
    directory.mkdir()
    (directory.parent / "beside").mkdir()
    (directory.parent / "beside" / "calc.wasm").write_bytes(CALC)
    return directory


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory, allowed: Path) -> Iterator[Server]:
    """A server that fetches from there, and from loopback by address; by its name loopback is another host."""
    tables = f"""
[fetch]
directories = ["{allowed}"]
hosts = ["127.0.0.1", "localhost"]
private_networks = ["127.0.0.1/32"]
max_time = "30s"
max_redirects = 2
"""
    server = Server(
        tmp_path_factory.mktemp("server"),
        TIGHT.replace("max_artifact", "max_uploads = 2\nmax_artifact") + tables,
    )
    yield server
    code = server.stop()
    server.close()
    assert code == 0


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as serving:
        yield serving


@pytest.fixture(autouse=True)
def _nothing_is_left_over(fetching: Server) -> Iterator[None]:
    yield
    until(lambda: fetching.uploads_in_progress() == [])


def call(server: Server, **spec: Any) -> pb.InvokeFunctionResponse:
    """A call in a task of its own, of an artifact that is fetched."""
    return server.invoke(
        task_name=fresh("task"), artifact_spec=pb.ArtifactSpec(**spec), function_name="answer"
    )


def file_url(path: Path) -> str:
    return f"file://{path}"


# --- off by default ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "key"),
    [("file:///etc/hostname", "fetch.directories"), ("https://example.com/a.wasm", "fetch.hosts")],
)
def test_nothing_is_fetched_unless_the_operator_allows_it(server: Server, location: str, key: str) -> None:
    refusal = refused(LocationForbidden, lambda: call(server, location=location))
    assert key in refusal.message
    assert refusal.metadata["keys"] == key


@pytest.mark.parametrize(
    "location",
    [
        "calc.wasm",
        "/calc.wasm",
        "ftp://127.0.0.1/a",
        "http://",
        "file://elsewhere/a",
        "file:a",
        "file://[x/y",
        "http://[x/y",
        "file:///a?b",
        "http://127.0.0.1/\n",
        "http://127.0.0.1/" + "a" * 4096,
    ],
)
def test_what_is_no_location_is_refused(fetching: Server, location: str) -> None:
    refused(InvalidRequest, lambda: call(fetching, location=location))


# --- files ------------------------------------------------------------------------------------------------


def test_a_file_below_an_allowed_directory_is_fetched(fetching: Server, allowed: Path) -> None:
    path = allowed / "with space.wasm"
    path.write_bytes(CALC)
    assert value_of(call(fetching, location=file_url(path).replace(" ", "%20"))) == 42


def test_a_link_within_an_allowed_directory_is_followed(fetching: Server, allowed: Path) -> None:
    (allowed / "target.wasm").write_bytes(CALC)
    (allowed / "link.wasm").symlink_to("target.wasm")
    assert value_of(call(fetching, location=file_url(allowed / "link.wasm"))) == 42


@pytest.mark.parametrize(
    "path", ["../beside/calc.wasm", "%2e%2e/beside/calc.wasm", "../beside/nothing", "../allowed-too"]
)
def test_nothing_beside_an_allowed_directory_is_fetched(fetching: Server, allowed: Path, path: str) -> None:
    refused(LocationForbidden, lambda: call(fetching, location=f"file://{allowed}/{path}"))


@pytest.mark.parametrize("target", ["beside/calc.wasm", "beside/nothing", "beside"])
def test_a_link_leads_nowhere_else_and_does_not_tell_what_is_there(
    fetching: Server, allowed: Path, target: str
) -> None:
    link = allowed / fresh("escape")
    link.symlink_to(allowed.parent / target)
    inside = link / "calc.wasm" if target == "beside" else link
    refused(LocationForbidden, lambda: call(fetching, location=file_url(inside)))


def test_a_file_that_is_not_there_is_not_found(fetching: Server, allowed: Path) -> None:
    refused(ArtifactNotFound, lambda: call(fetching, location=file_url(allowed / "nothing.wasm")))


def test_a_fifo_is_no_file_and_nobody_waits_for_its_writer(fetching: Server, allowed: Path) -> None:
    path = allowed / fresh("fifo")
    os.mkfifo(path)
    refused(FetchFailed, lambda: call(fetching, location=file_url(path)))


def test_a_socket_and_a_directory_are_no_files(fetching: Server, allowed: Path) -> None:
    path = allowed / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))
        refused(FetchFailed, lambda: call(fetching, location=file_url(path)))
    refused(FetchFailed, lambda: call(fetching, location=file_url(allowed)))


def test_a_file_that_is_too_large_is_refused(fetching: Server, allowed: Path) -> None:
    path = allowed / fresh("large")
    with path.open("wb") as file:
        file.truncate(MAX_ARTIFACT + 1)
    refused(ArtifactTooLarge, lambda: call(fetching, location=file_url(path)))


# --- hosts ------------------------------------------------------------------------------------------------


def test_what_an_allowed_host_has_is_fetched(fetching: Server, web: Web) -> None:
    assert value_of(call(fetching, location=web.put("/calc.wasm", CALC))) == 42


def test_a_redirect_is_followed(fetching: Server, web: Web) -> None:
    web.put("/calc.wasm", CALC)
    assert value_of(call(fetching, location=web.redirect("/a", "/calc.wasm"))) == 42


@pytest.mark.parametrize("target", ["http://example.com/a", "http://169.254.169.254/latest/meta-data/"])
def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(fetching: Server, web: Web, target: str) -> None:
    refused(LocationForbidden, lambda: call(fetching, location=web.redirect("/a", target)))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/"])
def test_a_redirect_to_something_else_is_refused(fetching: Server, web: Web, target: str) -> None:
    refused(InvalidRequest, lambda: call(fetching, location=web.redirect("/a", target)))


def test_a_redirect_to_what_is_no_url_is_a_failure_of_the_other_server(fetching: Server, web: Web) -> None:
    refused(FetchFailed, lambda: call(fetching, location=web.redirect("/a", "http://[x/")))


def test_redirects_without_end_are_refused(fetching: Server, web: Web) -> None:
    refused(FetchFailed, lambda: call(fetching, location=web.redirect("/a", "/a")))
    assert len(web.asked) == 3


def test_a_private_address_that_is_not_allowed_is_refused(start_server: StartServer, web: Web) -> None:
    server = start_server('[fetch]\nhosts = ["*"]')
    for location in (web.put("/a", CALC), web.url("/a", "localhost"), web.url("/a", "2130706433")):
        refusal = refused(LocationForbidden, lambda location=location: call(server, location=location))  # type: ignore[misc]
        assert "not public" in refusal.message
    assert web.asked == []


def test_what_is_not_there_is_not_found(fetching: Server, web: Web) -> None:
    refused(ArtifactNotFound, lambda: call(fetching, location=web.put("/a", b"", 404)))


def test_a_host_that_fails_is_not_our_failure(fetching: Server, web: Web) -> None:
    assert "503" in refused(FetchFailed, lambda: call(fetching, location=web.put("/a", CALC, 503))).message


def test_nobody_at_home_is_a_failed_fetch(fetching: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused(FetchFailed, lambda: call(fetching, location=f"http://127.0.0.1:{port}/a"))


def test_more_than_an_artifact_may_be_is_not_even_read_to_its_end(fetching: Server, web: Web) -> None:
    refused(ArtifactTooLarge, lambda: call(fetching, location=web.put_endless("/a")))


@pytest.mark.parametrize("where", ["stalled", "body", "headers"])
def test_a_slow_host_is_given_the_time_that_is_configured(
    start_server: StartServer, web: Web, where: str
) -> None:
    server = start_server(
        '[fetch]\nhosts = ["127.0.0.1"]\nprivate_networks = ["127.0.0.0/8"]\nmax_time = "1s"'
    )
    slow = {
        "stalled": lambda: web.put_stalling("/a", CALC),
        "body": lambda: web.put_dripping("/a"),
        "headers": lambda: web.put_dripping("/a", header_only=True),
    }
    refused(FetchFailed, lambda: call(server, location=slow[where]()))
    until(lambda: server.uploads_in_progress() == [])


def test_half_a_module_is_a_failed_fetch(fetching: Server, web: Web) -> None:
    refused(FetchFailed, lambda: call(fetching, location=web.put_cut_short("/a", CALC)))


def test_what_is_no_module_is_refused(fetching: Server, web: Web) -> None:
    refused(InvalidArtifact, lambda: call(fetching, location=web.put("/a", b"<html>")))


def test_a_fetch_takes_the_place_of_an_upload(fetching: Server, web: Web) -> None:
    stalled = [
        Pending(lambda path=path: call(fetching, location=web.put_stalling(path, CALC)))  # type: ignore[misc]
        for path in ("/a", "/b")
    ]
    until(lambda: len(web.asked) == 2)
    refusal = refused(TooManyUploads, lambda: call(fetching, location=web.put("/c", CALC)))
    assert refusal.retry_after is not None
    web.over.set()  # they are cut short
    for each in stalled:
        refused(FetchFailed, each.answer)


# --- what it is called, and whether it is what it should be -----------------------------------------------


@pytest.mark.parametrize("written", [DIGEST, f"sha256:{DIGEST}", DIGEST.upper()])
def test_what_is_fetched_is_what_the_checksum_says(fetching: Server, web: Web, written: str) -> None:
    location = web.put("/a", CALC)
    assert value_of(call(fetching, artifact_id=fresh("calc"), location=location, checksum=written)) == 42
    refused(ChecksumMismatch, lambda: call(fetching, location=location, checksum="00" * 32))


def test_it_is_stored_under_the_name_and_version_that_it_is_wanted_by(fetching: Server, web: Web) -> None:
    name = fresh("fetched")
    call(fetching, artifact_id=name, version="1.0", location=web.put("/a", CALC))
    stored = fetching.artifact(f"{name}:1.0")
    assert (stored.digest, stored.size_bytes) == (f"sha256:{DIGEST}", len(CALC))


def test_without_a_version_it_gets_that_of_an_upload_without_one(fetching: Server, web: Web) -> None:
    name = fresh("fetched")
    call(fetching, artifact_id=name, location=web.put("/a", CALC))
    assert fetching.artifact(name).version == DIGEST[:12]


def test_without_a_name_it_is_known_by_its_digest(fetching: Server, web: Web) -> None:
    answer = fetching.invoke(
        artifact_spec=pb.ArtifactSpec(location=web.put("/a", CALC)), function_name="answer"
    )
    assert fetching.get_task(answer.task_id).task.task_name == f"sha256:{DIGEST}:{DIGEST[:12]}"


def test_what_is_here_by_its_name_is_not_fetched(fetching: Server, web: Web) -> None:
    name = fresh("fetched")
    for _ in range(2):
        call(fetching, artifact_id=name, location=web.put("/a", CALC))
    assert len(web.asked) == 1


@pytest.mark.parametrize("by", [{"checksum": DIGEST}, {"artifact_id": f"sha256:{DIGEST}"}])
def test_what_is_here_by_its_digest_is_not_fetched(fetching: Server, web: Web, by: dict[str, str]) -> None:
    fetching.upload(CALC, "calc")
    assert value_of(call(fetching, location=web.put("/a", OTHER), **by)) == 42
    assert web.asked == []


def test_a_name_that_has_other_bytes_gets_those_that_the_checksum_says(fetching: Server, web: Web) -> None:
    name = fresh("fetched")
    fetching.upload(OTHER, name)
    assert value_of(call(fetching, artifact_id=name, checksum=DIGEST, location=web.put("/a", CALC))) == 42
    assert fetching.artifact(name).digest == f"sha256:{DIGEST}"


def test_versions_do_not_move(fetching: Server, web: Web) -> None:
    name = fresh("fetched")
    fetching.upload(OTHER, name, "1")
    spec = {"artifact_id": name, "version": "1", "checksum": DIGEST, "location": web.put("/a", CALC)}
    refused(VersionExists, lambda: call(fetching, **spec))
    assert web.asked == []


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"version": "1"}, InvalidRequest),
        ({"artifact_id": "no good"}, InvalidRequest),
        ({"checksum": "abc"}, InvalidRequest),
        ({"artifact_id": f"sha256:{DIGEST}", "checksum": "00" * 32}, ChecksumMismatch),
    ],
)
def test_a_spec_that_makes_no_sense_has_nothing_fetched(
    fetching: Server, web: Web, spec: dict[str, str], error: type[InvalidRequest]
) -> None:
    refused(error, lambda: call(fetching, location=web.put("/a", CALC), **spec))
    assert web.asked == []


# --- who waits --------------------------------------------------------------------------------------------


def test_callers_who_want_the_same_share_a_fetch(fetching: Server, web: Web) -> None:
    go_on = threading.Event()
    web.put_after("/a", CALC, go_on)
    name = fresh("shared")
    calls = [Pending(lambda: call(fetching, artifact_id=name, location=web.url("/a"))) for _ in range(2)]
    until(lambda: len(web.asked) > 0)
    go_on.set()
    assert [value_of(each.answer()) for each in calls] == [42, 42]
    assert len(web.asked) == 1


def test_a_fetch_counts_against_no_budget_of_a_call(fetching: Server, web: Web) -> None:
    go_on = threading.Event()
    web.put_after("/a", CALC, go_on)
    slow = Pending(
        lambda: fetching.invoke(
            artifact_spec=pb.ArtifactSpec(artifact_id=fresh("slow"), location=web.url("/a")),
            function_name="answer",
            context=pb.ExecutionContext(timeout_ms=2500),
        )
    )
    until(lambda: len(web.asked) == 1)
    assert not go_on.wait(2.6)  # more than the call has in all
    go_on.set()
    assert value_of(slow.answer()) == 42


def test_a_server_that_stops_ends_its_fetches(start_server: StartServer, web: Web) -> None:
    server = start_server(
        '[fetch]\nhosts = ["127.0.0.1"]\nprivate_networks = ["127.0.0.0/8"]\nmax_time = "1h"'
    )
    waiting = Pending(lambda: call(server, location=web.put_stalling("/a", CALC)))
    until(lambda: len(web.asked) == 1)
    assert server.stop() == 0
    refused(FetchFailed, waiting.answer)
