"""Files and directories as preview 2 has them; what may be done with them is held by the tests of preview 1, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from spear_wasm.engine.outcome import GuestFault
from spear_wasm.wasi.preview2.interface import MAX_TRANSFER_BYTES
from spear_wasm.wasi.volume import Scratch, Volume
from spear_wasm.wit.values import Case, Err, Ok
from tests.wasi.preview2.guests import Guest, one

FILES, STREAMS = "filesystem/types", "io/streams"
D, IN, OUT = "[method]descriptor.", "[method]input-stream.", "[method]output-stream."
NO_CHANGE = Case("no-change")


def flags(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.fixture
def writable(tmp_path: Path) -> Volume:
    (tmp_path / "writable").mkdir()
    (tmp_path / "writable" / "file").write_bytes(b"content")
    return Volume("/w", tmp_path / "writable", writable=True)


@pytest.fixture
def readable(tmp_path: Path) -> Volume:
    (tmp_path / "readable" / "inner").mkdir(parents=True)
    (tmp_path / "readable" / "file").write_bytes(b"kept")
    (tmp_path / "readable" / "link").symlink_to("file")
    return Volume("/r", tmp_path / "readable", writable=False)


@pytest.fixture
def guest(writable: Volume, readable: Volume) -> Iterator[Guest]:
    with one(writable, readable) as guest:
        yield guest


def place(guest: Guest, name: str = "/w") -> int:
    """A granted directory."""
    directories = guest.call("filesystem/preopens", "get-directories")
    found: int = next(number for number, granted in directories if granted == name)
    return found


def opened(
    guest: Guest, name: str, *how: str, directory: str = "/w", wanted: frozenset[str] = flags()
) -> int:
    number: int = guest.ok(
        FILES, D + "open-at", place(guest, directory), flags("symlink-follow"), name, wanted, flags(*how)
    )
    return number


def read_all(guest: Guest, stream: int) -> bytes:
    content = b""
    while (answer := guest.call(STREAMS, IN + "read", stream, 4)) != Err(Case("closed")):
        content += answer.value
    return content


def test_granted_directories_are_there_by_their_names_each_time_anew(guest: Guest) -> None:
    first, second = (guest.call("filesystem/preopens", "get-directories") for _ in range(2))
    assert [name for _, name in first] == ["/w", "/r"]
    assert not {number for number, _ in first} & {number for number, _ in second}
    guest.drop("descriptor", first[0][0])
    assert guest.ok(FILES, D + "get-type", second[0][0]) == "directory"


def test_a_file_is_read_from_a_place_and_by_a_stream(guest: Guest) -> None:
    file = opened(guest, "file", "read")
    assert guest.ok(FILES, D + "read", file, 3, 0) == (b"con", False)
    assert guest.ok(FILES, D + "read", file, 2**64 - 1, 3) == (b"tent", True)
    assert guest.ok(FILES, D + "read", file, 1, 100) == (b"", True)
    stream = guest.ok(FILES, D + "read-via-stream", file, 3)
    guest.drop("descriptor", file)
    assert read_all(guest, stream) == b"tent"


def test_a_large_file_comes_in_pieces(guest: Guest, writable: Volume) -> None:
    (writable.path / "large").write_bytes(bytes(MAX_TRANSFER_BYTES + 1))
    content, is_over = guest.ok(FILES, D + "read", opened(guest, "large", "read"), 2**40, 0)
    assert (len(content), is_over) == (MAX_TRANSFER_BYTES, False)


def test_a_file_is_written_at_a_place_by_a_stream_and_at_its_end(guest: Guest, writable: Volume) -> None:
    file = opened(guest, "file", "read", "write")
    assert guest.ok(FILES, D + "write", file, b"CON", 0) == 3
    stream = guest.ok(FILES, D + "write-via-stream", file, 5)
    guest.ok(STREAMS, OUT + "blocking-write-and-flush", stream, b"ded")
    guest.ok(STREAMS, OUT + "blocking-write-and-flush", stream, b"!")
    end = guest.ok(FILES, D + "append-via-stream", file)
    guest.ok(STREAMS, OUT + "write", end, b" more")
    assert (writable.path / "file").read_bytes() == b"CONteded! more"
    guest.ok(FILES, D + "set-size", file, 3)
    assert (writable.path / "file").read_bytes() == b"CON"


def test_who_did_not_open_for_it_may_not_write_or_read(guest: Guest) -> None:
    read_only, write_only = opened(guest, "file", "read"), opened(guest, "file", "write")
    assert guest.err(FILES, D + "write", read_only, b"x", 0) == "bad-descriptor"
    assert guest.err(FILES, D + "write-via-stream", read_only, 0) == "bad-descriptor"
    assert guest.err(FILES, D + "set-size", read_only, 0) == "bad-descriptor"
    assert guest.err(FILES, D + "read", write_only, 1, 0) == "bad-descriptor"
    assert guest.err(FILES, D + "read-via-stream", write_only, 0) == "bad-descriptor"


def test_what_is_granted_for_reading_stays_as_it_is(guest: Guest) -> None:
    directory, file = place(guest, "/r"), opened(guest, "file", "read", directory="/r")
    refused: list[tuple[Any, ...]] = [
        ("open-at", flags(), "new", flags("create"), flags("write")),
        ("open-at", flags(), "file", flags(), flags("write")),
        ("open-at", flags(), "file", flags("truncate"), flags("read")),
        ("create-directory-at", "new"),
        ("remove-directory-at", "inner"),
        ("unlink-file-at", "file"),
        ("rename-at", "file", directory, "other"),
        ("link-at", flags(), "file", directory, "other"),
        ("symlink-at", "file", "other"),
        ("set-times-at", flags(), "file", Case("now"), Case("now")),
        ("set-times", Case("now"), NO_CHANGE),
    ]
    for name, *args in refused:
        assert guest.err(FILES, D + name, directory, *args) == "read-only", name
    assert guest.err(FILES, D + "set-times", file, Case("now"), NO_CHANGE) == "read-only"
    assert guest.ok(FILES, D + "get-flags", directory) == flags("read")
    assert guest.ok(FILES, D + "get-flags", file) == flags("read")


def test_a_volume_without_room_is_an_error_that_a_stream_can_be_asked_about() -> None:
    with one(Scratch("/tmp", 10)) as guest:
        file = opened(guest, "new", "write", directory="/tmp", wanted=flags("create"))
        stream = guest.ok(FILES, D + "write-via-stream", file, 0)
        error = guest.err(STREAMS, OUT + "write", stream, bytes(11))
        assert error.name == "last-operation-failed"
        assert guest.call(FILES, "filesystem-error-code", error.payload) == "insufficient-space"
        assert guest.call("io/error", "[method]error.to-debug-string", error.payload) == "nospc"
        for name in ("check-write", "flush"):
            assert guest.err(STREAMS, OUT + name, stream) == Case("closed")
        assert guest.err(STREAMS, OUT + "write", stream, b"") == Case("closed")
        assert guest.err(FILES, D + "write", file, bytes(11), 0) == "insufficient-space"


def test_directories_are_listed_without_themselves(guest: Guest) -> None:
    stream = guest.ok(FILES, D + "read-directory", place(guest, "/r"))
    name = "[method]directory-entry-stream.read-directory-entry"
    entries = {}
    while (entry := guest.ok(FILES, name, stream)) is not None:
        entries[entry["name"]] = entry["type"]
    assert entries == {"file": "regular-file", "inner": "directory", "link": "symbolic-link"}
    assert guest.ok(FILES, name, stream) is None


def test_two_who_list_a_directory_do_not_count_for_each_other(guest: Guest) -> None:
    directory, name = place(guest, "/r"), "[method]directory-entry-stream.read-directory-entry"
    streams = [guest.ok(FILES, D + "read-directory", directory) for _ in range(2)]
    names = [[guest.ok(FILES, name, stream)["name"] for _ in range(3)] for stream in streams]
    assert sorted(names[0]) == sorted(names[1]) == ["file", "inner", "link"]


def test_what_a_file_is_like(guest: Guest, readable: Volume) -> None:
    file = opened(guest, "file", "read", directory="/r")
    stat = guest.ok(FILES, D + "stat", file)
    status = (readable.path / "file").stat()
    assert (stat["type"], stat["size"], stat["link-count"]) == ("regular-file", 4, 1)
    modified = stat["data-modification-timestamp"]
    assert modified["seconds"] * 10**9 + modified["nanoseconds"] == status.st_mtime_ns
    directory = place(guest, "/r")
    assert guest.ok(FILES, D + "stat-at", directory, flags(), "link")["type"] == "symbolic-link"
    assert guest.ok(FILES, D + "stat-at", directory, flags("symlink-follow"), "link") == stat
    assert guest.ok(FILES, D + "readlink-at", directory, "link") == "file"


def test_a_file_is_known_again_however_it_was_found(guest: Guest, writable: Volume) -> None:
    directory, file, again = place(guest), opened(guest, "file", "read"), opened(guest, "file", "read")
    other = opened(guest, "file", "read", directory="/r")
    assert guest.call(FILES, D + "is-same-object", file, again)
    assert not guest.call(FILES, D + "is-same-object", file, other)
    known = guest.ok(FILES, D + "metadata-hash", file)
    assert guest.ok(FILES, D + "metadata-hash-at", directory, flags(), "file") == known
    assert guest.ok(FILES, D + "metadata-hash", other) != known
    (writable.path / "file").write_bytes(b"changed by others")
    assert guest.ok(FILES, D + "metadata-hash", file) != known


def test_times_are_set_as_asked_for(guest: Guest, writable: Volume) -> None:
    file, path = opened(guest, "file", "write"), writable.path / "file"
    timestamp = Case("timestamp", {"seconds": 1_000_000_000, "nanoseconds": 5})
    guest.ok(FILES, D + "set-times", file, timestamp, NO_CHANGE)
    assert path.stat().st_atime_ns == 1_000_000_000 * 10**9 + 5
    guest.ok(FILES, D + "set-times-at", place(guest), flags(), "file", NO_CHANGE, timestamp)
    assert path.stat().st_mtime_ns == 1_000_000_000 * 10**9 + 5
    guest.ok(FILES, D + "set-times", file, NO_CHANGE, Case("now"))
    assert path.stat().st_mtime_ns > 1_700_000_000 * 10**9
    never = Case("timestamp", {"seconds": 2**64 - 1, "nanoseconds": 0})
    assert guest.err(FILES, D + "set-times", file, never, NO_CHANGE) == "overflow"


def test_entries_are_made_renamed_linked_and_removed(guest: Guest, writable: Volume) -> None:
    directory, path = place(guest), writable.path
    guest.ok(FILES, D + "create-directory-at", directory, "made")
    guest.ok(FILES, D + "rename-at", directory, "file", directory, "made/file")
    guest.ok(FILES, D + "link-at", directory, flags(), "made/file", directory, "again")
    guest.ok(FILES, D + "symlink-at", directory, "made", "to-made")
    assert (path / "to-made" / "file").read_bytes() == b"content"
    assert guest.err(FILES, D + "remove-directory-at", directory, "made") == "not-empty"
    guest.ok(FILES, D + "unlink-file-at", directory, "made/file")
    guest.ok(FILES, D + "remove-directory-at", directory, "made")
    assert sorted(each.name for each in path.iterdir()) == ["again", "to-made"]


@pytest.mark.parametrize(
    ("wanted", "name", "code"),
    [
        (flags(), "missing", "no-entry"),
        (flags("create", "exclusive"), "file", "exist"),
        (flags("directory"), "file", "not-directory"),
        (flags("create", "directory"), "new", "invalid"),
        (flags(), "../writable/file", "not-permitted"),
        (flags(), "/file", "not-permitted"),
        (flags(), "", "no-entry"),
        (flags(), "x" * 5000, "name-too-long"),
        (flags(), "a\0b", "illegal-byte-sequence"),
    ],
)
def test_what_cannot_be_opened_says_why(wanted: frozenset[str], name: str, code: str, guest: Guest) -> None:
    assert guest.err(FILES, D + "open-at", place(guest), flags(), name, wanted, flags("read")) == code


def test_a_link_at_the_end_is_followed_where_that_is_asked_for(guest: Guest) -> None:
    directory = place(guest, "/r")
    assert guest.err(FILES, D + "open-at", directory, flags(), "link", flags(), flags("read")) == "loop"
    followed = guest.ok(
        FILES, D + "open-at", directory, flags("symlink-follow"), "link", flags(), flags("read")
    )
    assert guest.ok(FILES, D + "read", followed, 10, 0) == (b"kept", True)


def test_a_directory_is_no_file_and_a_file_no_directory(guest: Guest) -> None:
    directory, file = place(guest), opened(guest, "file", "read")
    assert guest.err(FILES, D + "read", directory, 1, 0) == "is-directory"
    assert guest.err(FILES, D + "read-directory", file) == "not-directory"
    assert guest.err(FILES, D + "stat-at", file, flags(), "x") == "not-directory"
    assert guest.ok(FILES, D + "get-flags", directory) == flags("read", "mutate-directory")


def test_how_a_file_was_opened_is_told(guest: Guest) -> None:
    for how in (
        ("read",),
        ("read", "write"),
        ("write", "file-integrity-sync"),
        ("write", "data-integrity-sync"),
    ):
        assert guest.ok(FILES, D + "get-flags", opened(guest, "file", *how)) == flags(*how)


def test_offsets_that_no_file_has_are_refused(guest: Guest) -> None:
    file = opened(guest, "file", "read", "write")
    for name, args in (("read", (1, 2**63)), ("write", (b"x", 2**64 - 1)), ("set-size", (2**63,)),
                       ("read-via-stream", (2**63,)), ("advise", (2**63, 0, "normal"))):  # fmt: skip
        assert guest.err(FILES, D + name, file, *args) == "invalid", name
    guest.ok(FILES, D + "advise", file, 0, 1, "sequential")


@pytest.mark.parametrize("name", ["sync", "sync-data"])
def test_what_is_written_is_on_the_disk_when_that_is_waited_for(name: str, guest: Guest) -> None:
    steps, synced = guest.start(FILES, D + name, opened(guest, "file", "write")), Event()
    next(steps).when_over(synced.set)
    assert synced.wait(30)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == Ok()


def test_a_granted_directory_that_is_gone_is_the_hosts_fault(writable: Volume) -> None:
    with (
        one(Volume("/x", writable.path / "gone", writable=False)) as guest,
        pytest.raises(GuestFault, match="cannot be had"),
    ):
        guest.call("filesystem/preopens", "get-directories")
