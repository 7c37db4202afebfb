"""Files that tasks grant to WASI programs: what the operator allows, nothing beside it, and no more than it may be."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest, PermissionDenied
from spear_wasm.wasi.volume import SCRATCH_HOME
from tests.rpc.components import component
from tests.rpc.programs import program, run
from tests.rpc.serving import PATIENCE, Server, code_of, context, parameters, refused, until, value_of
from tests.rpc.test_streams import content_of

SCRATCH = 1 << 20
KEPT = b"kept by the operator\n"


class Files:
    """A server that allows two directories of `root`, and the program that works with files."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server = server
        self.root = root
        self.readable, self.writable = root / "readable", root / "writable"

    def run(self, *words: str | int, **config: Any) -> str:
        """What the program prints; with a config that grants something."""
        answer = run(self.server, *words, artifact="files", config=config or self.grant())
        return bytes(answer.result.stdout).decode()

    def grant(self) -> dict[str, Any]:
        return {
            "directories": {"/r": str(self.readable)},
            "writable_directories": {"/w": str(self.writable)},
            "scratch": SCRATCH,
        }


@pytest.fixture(params=["module", "component"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    root = tmp_path / "root"
    for name in ("readable/inner", "writable", "secret"):
        (root / name).mkdir(parents=True)
    (root / "readable" / "file").write_bytes(KEPT)
    (root / "readable" / "inner" / "file").write_bytes(KEPT)
    (root / "secret" / "file").write_bytes(b"nobody's business\n")
    config = (
        f'[runtimes]\nreadable_directories = ["{root}/readable"]\nwritable_directories = ["{root}/writable"]\n'
        'max_scratch = "1MiB"\n'
    )
    server = Server(tmp_path, config)
    server.upload(program("files") if request.param == "module" else component("files"), "files")
    yield Files(server, root)
    server.close()


# --- what the operator allows -----------------------------------------------------------------------------


def test_without_a_grant_there_are_no_files(files: Files) -> None:
    answer = run(files.server, "show", "/r/file", artifact="files")
    assert code_of(answer) == "EXIT_STATUS"
    assert answer.result.exit_code == 1
    assert b"No such file" in answer.result.stdout or b"ot permitted" in answer.result.stdout


def test_a_granted_directory_can_be_read_by_the_path_that_the_task_gives_it(files: Files) -> None:
    assert files.run("show", "/r/file") == KEPT.decode()
    assert files.run("show", "/r/inner/../file") == KEPT.decode()
    assert sorted(files.run("list", "/r").split()) == ["file", "inner"]


@pytest.mark.parametrize("words", [("fill", "/r/new", 1), ("fill", "/r/file", 1), ("remove", "/r/file"),
                                   ("rename", "/r/file", "/r/other"), ("symlink", "file", "/r/link"),
                                   ("link", "/r/file", "/r/link"), ("spread", "/r", 1)])  # fmt: skip
def test_a_directory_for_reading_stays_as_it_is(words: tuple[str | int, ...], files: Files) -> None:
    assert "ead-only" in files.run(*words)
    assert (files.readable / "file").read_bytes() == KEPT
    assert sorted(each.name for each in files.readable.iterdir()) == ["file", "inner"]


def test_a_directory_for_writing_keeps_what_is_written(files: Files) -> None:
    assert files.run("fill", "/w/new", 10_000) == "10000\n"
    assert (files.writable / "new").read_bytes() == bytes(10_000)
    files.run("rename", "/w/new", "/w/other")
    files.run("link", "/w/other", "/w/again")
    assert (files.writable / "again").stat().st_nlink == 2
    files.run("remove", "/w/other")
    assert [each.name for each in files.writable.iterdir()] == ["again"]


@pytest.mark.parametrize(
    ("key", "path"),
    [("directories", "secret"), ("directories", "."), ("directories", "readable/../secret"),
     ("directories", "link"), ("directories", "missing"), ("writable_directories", "readable")],
)  # fmt: skip
def test_a_directory_that_the_operator_did_not_allow_is_refused(key: str, path: str, files: Files) -> None:
    (files.readable / "link").symlink_to(files.root / "secret")
    config = {key: {"/x": str(files.root / path)}}
    refused(PermissionDenied, lambda: run(files.server, artifact="files", config=config))


@pytest.mark.parametrize(
    "config",
    [{"directories": {"/x": "readable/file"}}, {"directories": {"/tmp": "readable"}, "scratch": 1},
     {"directories": {"/x": "readable"}, "writable_directories": {"/x": "writable"}},
     {"directories": {f"/{number}": "readable" for number in range(17)}}],
)  # fmt: skip
def test_grants_that_make_no_sense_are_refused(config: dict[str, Any], files: Files) -> None:
    below_root = {
        key: {name: str(files.root / path) for name, path in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }
    refused(InvalidRequest, lambda: run(files.server, artifact="files", config=below_root))


def test_more_scratch_than_the_operator_allows_is_refused(files: Files) -> None:
    refused(PermissionDenied, lambda: run(files.server, artifact="files", config={"scratch": SCRATCH + 1}))


# --- nothing beside it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/r/../secret/file", "/r/inner/../../secret/file", "/w/out", "/w/deep/out",
                                  "/w/absolute", "/w/chain"])  # fmt: skip
def test_no_path_leads_outside(path: str, files: Files) -> None:
    (files.writable / "deep").mkdir()
    (files.writable / "out").symlink_to("../secret/file")
    (files.writable / "deep" / "out").symlink_to("../../secret/file")
    (files.writable / "absolute").symlink_to(files.root / "secret" / "file")
    (files.writable / "chain").symlink_to("deep/../out")
    printed = files.run("show", path)
    assert "business" not in printed
    assert printed.strip()


def test_a_directory_that_was_swapped_for_a_link_since_it_was_granted_is_not_opened(files: Files) -> None:
    inner = files.readable / "inner"
    spec: dict[str, Any] = {"config": {"directories": {"/x": str(inner)}}, "task_name": "swapped"}
    spec["artifact"] = "files"
    assert value_of(run(files.server, "show", "/x/file", **spec)) == KEPT
    inner.rename(files.readable / "moved")
    inner.symlink_to("../secret")
    answer = run(files.server, "show", "/x/file", **spec)
    assert code_of(answer) == "INSTANCE_FAILED"
    assert b"business" not in answer.result.stdout
    inner.unlink()
    (files.readable / "moved").rename(inner)
    assert value_of(run(files.server, "show", "/x/file", **spec)) == KEPT


def test_links_that_stay_inside_are_followed(files: Files) -> None:
    (files.readable / "link").symlink_to("inner/../inner/file")
    (files.readable / "inner" / "up").symlink_to("..")
    assert files.run("show", "/r/link") == KEPT.decode()
    assert files.run("show", "/r/inner/up/file") == KEPT.decode()


def test_links_in_a_circle_are_given_up(files: Files) -> None:
    (files.readable / "one").symlink_to("two")
    (files.readable / "two").symlink_to("one")
    assert "link" in files.run("show", "/r/one")


def test_a_program_cannot_make_a_link_to_outside(files: Files) -> None:
    assert files.run("symlink", "/etc/passwd", "/w/link").strip()
    files.run("symlink", "../secret/file", "/w/link")
    assert "business" not in files.run("show", "/w/link")


def test_what_would_keep_a_reader_waiting_is_not_opened(files: Files) -> None:
    os.mkfifo(files.readable / "pipe")
    assert files.run("show", "/r/pipe").strip()


# --- a directory for one sandbox --------------------------------------------------------------------------


def scratches(server: Server) -> set[Path]:
    """The scratch directories that a server has, or has left."""
    return set((server.temporary / SCRATCH_HOME).glob(f"{server.process.pid}-*"))


def asleep(files: Files) -> Any:
    """A call, as gRPC has it, whose program sleeps with a file in its scratch directory."""
    spec = pb.ArtifactSpec(artifact_id="files")
    spec.runtime_config.update({"scratch": SCRATCH})
    request = pb.InvokeFunctionRequest(
        artifact_spec=spec, function_name="_start", parameters=parameters("sleep", "/tmp/here")
    )
    call = files.server.functions.StreamFunction(request, timeout=PATIENCE)
    assert content_of(next(iter(call))).startswith(b"begun")  # a line may come in pieces
    return call


def test_a_scratch_directory_is_gone_with_its_sandbox(files: Files) -> None:
    sleeper = asleep(files)
    assert len(scratches(files.server)) == 1
    sleeper.cancel()
    files.server.wait_for_load(0)
    assert files.run("show", "/tmp/here") != "here"
    until(lambda: not scratches(files.server))


def test_its_files_together_have_a_bound(files: Files) -> None:
    printed = files.run("fill", "/tmp/file", 2 * SCRATCH)
    assert int(re.findall(r"\d+", printed)[0]) <= SCRATCH
    assert "space" in printed


def test_files_that_are_open_without_a_name_count(files: Files) -> None:
    printed = files.run("hoard", "/tmp/file", SCRATCH // 4)
    assert printed.count("one") <= 4
    assert "space" in printed


def test_its_entries_have_a_bound(files: Files) -> None:
    count, error = files.run("spread", "/tmp", 5000).split("\n")[:2]
    assert int(count) <= 1024
    assert "space" in error


def test_a_tree_however_deep_is_removed(files: Files) -> None:
    files.run("dig", "/tmp", 5000)
    until(lambda: not scratches(files.server))


def test_what_a_server_that_was_killed_has_left_is_removed_by_the_next(files: Files, tmp_path: Path) -> None:
    sleeper = asleep(files)  # whose guest ends where nobody holds it
    files.server.process.kill()
    files.server.process.wait()
    del sleeper
    assert len(scratches(files.server)) == 1
    with contextlib.closing(Server(tmp_path, f'[runtimes]\nmax_scratch = "{SCRATCH}"\n')) as after:
        after.upload(program("files"), "files")
        assert value_of(run(after, "list", "/tmp", artifact="files", config={"scratch": 1})) == b""
        assert not scratches(files.server)
        assert after.stop() == 0


def test_a_program_with_files_ends_at_its_deadline_like_any_other(files: Files) -> None:
    answer = run(files.server, "sleep", "/tmp/here", artifact="files", config={"scratch": SCRATCH},
                 context=context(timeout_ms=200))  # fmt: skip
    assert code_of(answer) == "TIMEOUT"
