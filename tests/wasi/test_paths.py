"""No path leads out of a directory, whatever it is made of and whoever moves things about meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.wasi.errno import Errno, WasiError
from spear_wasm.wasi.paths import MAX_DEPTH, entry_at, open_directory

STEPS = (
    "..",
    ".",
    "",
    "a",
    "b",
    "file",
    "missing",
    "up",
    "out",
    "absolute",
    "chain",
    "circle",
    "a/../a",
    "x" * 300,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory `root` with links of all kinds, and a secret beside it."""
    home = tmp_path_factory.mktemp("tree")
    (home / "secret").mkdir()
    (home / "secret" / "file").write_text("secret")
    root = home / "root"
    for directory in ("a/b", "b/a"):
        (root / directory).mkdir(parents=True)
    for place in (root, root / "a", root / "a" / "b", root / "b" / "a"):
        (place / "file").write_text("inside")
        (place / "up").symlink_to("..")
        (place / "out").symlink_to("../" * 8 + str(home / "secret"))
        (place / "absolute").symlink_to(home / "secret")
        (place / "chain").symlink_to("up/a/../chain/../out")
        (place / "circle").symlink_to("circle")
    return root


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    number = open_directory(path)
    try:
        yield number
    finally:
        os.close(number)


@given(steps=st.lists(st.sampled_from(STEPS), max_size=12), slashes=st.booleans(), follow=st.booleans())
def test_a_path_ends_inside_or_nowhere(tree: Path, steps: list[str], slashes: bool, follow: bool) -> None:
    path = ("/" if slashes else "") + "/".join(steps)
    with (
        opened(tree) as root,
        contextlib.suppress(WasiError, OSError),
        entry_at(root, path.encode(), follow=follow) as (parent, name),
    ):
        assert Path(f"/proc/self/fd/{parent}").readlink().is_relative_to(tree)
        assert b"/" not in name
        assert name not in {b"", b".."}
        assert not slashes


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("..", Errno.NOTCAPABLE), ("a/../..", Errno.NOTCAPABLE), ("/etc/passwd", Errno.NOTCAPABLE), ("", Errno.NOENT),
        ("absolute/file", Errno.NOTCAPABLE), ("out/file", Errno.NOTCAPABLE), ("chain/file", Errno.NOTCAPABLE),
        ("circle/file", Errno.LOOP), ("a\0", Errno.ILSEQ), ("a/" * 3000, Errno.NAMETOOLONG),
    ],
)  # fmt: skip
def test_a_path_that_leads_outside_or_nowhere_is_refused(tree: Path, path: str, number: Errno) -> None:
    with opened(tree) as root, pytest.raises(WasiError) as caught, entry_at(root, path.encode(), follow=True):
        pass
    assert caught.value.number is number


def test_a_path_may_pass_so_many_directories_and_leaves_none_open(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(MAX_DEPTH + 1):
        deep /= "d"
    deep.mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with opened(tmp_path) as root:
        with entry_at(root, b"d/" * MAX_DEPTH + b"d", follow=False) as (_, name):
            assert name == b"d"
        with pytest.raises(WasiError), entry_at(root, b"d/" * (MAX_DEPTH + 1) + b"d", follow=False):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_swapped_for_a_link_while_a_path_is_walked_leads_nowhere(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    for directory in (root / "door" / "inner", secret / "inner"):
        directory.mkdir(parents=True)
        (directory / "file").write_text(directory.parent.name)
    (root / "link").symlink_to("../secret")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "door").rename(root / "aside")
            (root / "link").rename(root / "door")
            (root / "door").rename(root / "link")
            (root / "aside").rename(root / "door")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        with opened(root) as number:
            for _ in range(3000):
                seen.add(_content(number, b"door/inner/../inner/file"))
    finally:
        stop.set()
        swapper.join()
    assert seen <= {"door", Errno.NOTCAPABLE, None}
    assert "door" in seen


def _content(root: int, path: bytes) -> str | Errno | None:
    try:
        with entry_at(root, path, follow=True) as (parent, name):
            number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
            with os.fdopen(number, encoding="utf-8") as file:
                return file.read()
    except WasiError as error:
        return error.number
    except OSError:
        return None


def test_a_granted_directory_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    os.close(open_directory(tmp_path / "real" / "inner"))
    for path in (tmp_path / "link", tmp_path / "link" / "inner", tmp_path / "missing"):
        with pytest.raises(OSError, match=r"directory|links"):
            open_directory(path)
