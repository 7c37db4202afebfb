from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from spear_wasm.artifacts import sidecar
from spear_wasm.artifacts.code_cache import CodeCache, CompiledCode
from spear_wasm.artifacts.files import disk_full_refused
from spear_wasm.artifacts.seal import Seal, open_key
from spear_wasm.errors import ArtifactDeleted, CompileRefused, InvalidArtifact, StorageFull
from tests.artifacts.fakes import (
    Background,
    FakeCompiler,
    Followers,
    Gate,
    digest_of,
    machine_code,
)
from tests.workshop import at_once

WASM = b"\0asm some module"
DIGEST = digest_of(WASM)


class Bench:
    """A cache, a compiler that counts, and a module to load."""

    def __init__(self, directory: Path, compiler: FakeCompiler) -> None:
        self.directory = directory / "data"
        self.compiler = compiler
        self.wasm = directory / "module.wasm"
        self.wasm.write_bytes(WASM)
        self.room = 1 << 20
        self.cache = self.reopened()

    def reopened(self, compiler: FakeCompiler | None = None) -> CodeCache:
        """Another process's view of the same directory."""
        self.cache = CodeCache(self.directory, compiler or self.compiler)
        self.cache.open(self._check_room)
        return self.cache

    def _check_room(self) -> None:
        if self.cache.bytes_on_disk() > self.room:
            raise StorageFull("there is no room")

    def load(self, *, metered: bool = False) -> CompiledCode:
        return self.cache.load(DIGEST, self.wasm, metered=metered)

    @property
    def compilations(self) -> int:
        return len(self.compiler.compiled)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in (self.directory / "code").rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path, compiler: FakeCompiler) -> Bench:
    return Bench(tmp_path, compiler)


def overwrite(path: Path, content: bytes) -> None:
    """Tamper in place: the same inode, the same name."""
    path.chmod(0o600)
    path.write_bytes(content)


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


# What a load gives


def test_code_is_compiled_once_and_then_found(bench: Bench) -> None:
    first = bench.load()
    again = bench.load()
    assert first == again
    assert first.path.read_bytes() == machine_code(WASM, metered=False)
    assert first.module == bench.compiler.info
    assert first.compile_time_ms == 250
    assert bench.compilations == 1


def test_another_process_finds_it_too(bench: Bench) -> None:
    first = bench.load()
    bench.reopened()
    assert bench.load() == first
    assert bench.compilations == 1


def test_metered_code_is_code_of_its_own(bench: Bench) -> None:
    plain, metered = bench.load(), bench.load(metered=True)
    assert plain.path != metered.path
    assert metered.path.read_bytes() == machine_code(WASM, metered=True)
    assert bench.compilations == 2


def test_a_digest_may_be_given_as_callers_write_it(bench: Bench) -> None:
    assert bench.cache.load("sha256:" + DIGEST.upper(), bench.wasm, metered=False) == bench.load()


def test_found_code_is_authenticated_once_per_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.load()
    bench.reopened()
    sealed: list[Path] = []
    of_code = Seal.of_code

    def counted(seal: Seal, path: Path) -> str:
        sealed.append(path)
        return of_code(seal, path)

    monkeypatch.setattr(Seal, "of_code", counted)
    bench.load()
    bench.load()
    assert len(sealed) == 1


def test_seals_read_files_longer_than_a_block(tmp_path: Path) -> None:
    long = b"x" * ((2 << 20) + 17)
    (tmp_path / "a").write_bytes(long)
    (tmp_path / "b").write_bytes(long[:-1] + b"y")
    seal = Seal(b"k" * 32)
    assert seal.of_code(tmp_path / "a") != seal.of_code(tmp_path / "b")


def test_nothing_works_before_the_cache_is_open(tmp_path: Path, compiler: FakeCompiler) -> None:
    cache = CodeCache(tmp_path, compiler)
    wasm = tmp_path / "module.wasm"
    wasm.write_bytes(WASM)
    with pytest.raises(AssertionError, match="before it was opened"):
        cache.load(DIGEST, wasm, metered=False)


def test_files_are_for_their_owner_alone(bench: Bench) -> None:
    bench.load()
    assert stat.S_IMODE((bench.directory / "key").stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.files} == {0o400}
    folders = [path for path in bench.directory.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [bench.directory, *folders]} == {0o700}


# What is refused leaves nothing


@pytest.mark.parametrize(("wasm", "error"), [(b"invalid", InvalidArtifact), (b"bomb", CompileRefused)])
def test_a_refused_module_leaves_nothing(bench: Bench, wasm: bytes, error: type[Exception]) -> None:
    bench.wasm.write_bytes(wasm)
    with pytest.raises(error):
        bench.cache.load(digest_of(wasm), bench.wasm, metered=False)
    assert bench.files == []
    assert bench.cache.bytes_on_disk() == 0


def test_a_refusal_is_not_remembered(bench: Bench) -> None:
    bench.wasm.write_bytes(b"bomb")
    with pytest.raises(CompileRefused):
        bench.load()
    bench.wasm.write_bytes(WASM)
    assert bench.load().path.exists()


def test_a_module_that_is_gone_cannot_be_compiled(bench: Bench) -> None:
    bench.wasm.unlink()
    with pytest.raises(ArtifactDeleted):
        bench.load()
    assert bench.compilations == 0


def test_a_module_that_goes_while_it_is_compiled_leaves_no_code(bench: Bench) -> None:
    bench.compiler.during = bench.wasm.unlink
    with pytest.raises(ArtifactDeleted) as caught:
        bench.load()
    assert caught.value.metadata == {"digest": DIGEST}
    assert bench.files == []


def test_an_error_over_a_module_that_went_is_that_it_went(bench: Bench) -> None:
    bench.wasm.write_bytes(b"invalid")
    bench.compiler.during = bench.wasm.unlink
    with pytest.raises(ArtifactDeleted):
        bench.load()


def test_code_that_there_is_no_room_for_is_refused_and_does_not_stay(bench: Bench) -> None:
    bench.load()
    before = bench.files
    bench.room = bench.cache.bytes_on_disk() + 1
    with pytest.raises(StorageFull):
        bench.load(metered=True)
    assert bench.files == before
    assert bench.cache.bytes_on_disk() == sum(path.stat().st_size for path in before)
    bench.load()


def test_code_that_there_is_no_room_for_is_never_written(bench: Bench) -> None:
    written = threading.Event()
    bench.compiler.writing = written.set
    bench.room = 1
    with pytest.raises(StorageFull):
        bench.load()
    assert not written.is_set()
    assert bench.cache.bytes_on_disk() == 0


def test_code_counts_from_before_it_is_written(bench: Bench) -> None:
    counted: list[int] = []
    bench.compiler.writing = lambda: counted.append(bench.cache.bytes_on_disk())
    code = bench.load().path
    assert counted == [code.stat().st_size]


def test_code_whose_writing_fails_counts_no_longer(bench: Bench) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "the disk is broken")

    bench.compiler.writing = fail
    with pytest.raises(OSError, match="broken"):
        bench.load()
    assert bench.cache.bytes_on_disk() == 0
    assert bench.files == []


def test_code_that_is_made_again_needs_no_more_room_than_before(bench: Bench) -> None:
    code = bench.load().path
    bench.room = bench.cache.bytes_on_disk()
    code.unlink()
    assert bench.load().path == code
    assert bench.cache.bytes_on_disk() == bench.room


def test_of_code_that_is_made_at_once_as_much_stays_as_there_is_room_for(bench: Bench) -> None:
    bench.load()
    bench.load(metered=True)
    both = bench.cache.bytes_on_disk()
    bench.cache.remove(DIGEST)
    bench.room = both - 1

    def attempt(*, metered: bool) -> bool:
        try:
            bench.load(metered=metered)
        except StorageFull:
            return False
        return True

    assert sorted(at_once([partial(attempt, metered=metered) for metered in (False, True)])) == [False, True]
    assert len(bench.files) == 2
    assert bench.cache.bytes_on_disk() == sum(path.stat().st_size for path in bench.files)


def test_a_full_disk_is_storage_full() -> None:
    with pytest.raises(StorageFull), disk_full_refused():
        raise OSError(28, "No space left on device")


def test_other_errors_of_the_disk_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="Input/output"), disk_full_refused():
        raise OSError(5, "Input/output error")


# Callers at the same time


def test_concurrent_callers_wait_for_one_compilation(
    bench: Bench, background: Background, followers: Followers
) -> None:
    gate = bench.compiler.during = Gate()
    first = background.start(bench.load)
    gate.wait_for_arrival()
    others = [background.start(bench.load) for _ in range(3)]
    followers.wait_for(3)
    gate.open()
    assert {first().path, *(other().path for other in others)} == {bench.files[0]}
    assert bench.compilations == 1


def test_concurrent_callers_share_one_error(
    bench: Bench, background: Background, followers: Followers
) -> None:
    bench.wasm.write_bytes(b"bomb")
    gate = bench.compiler.during = Gate()
    first = background.start(bench.load)
    gate.wait_for_arrival()
    second = background.start(bench.load)
    followers.wait_for(1)
    gate.open()
    for caller in (first, second):
        with pytest.raises(CompileRefused):
            caller()
    assert bench.compilations == 1


def test_plain_and_metered_code_do_not_wait_for_each_other(bench: Bench, background: Background) -> None:
    gate = bench.compiler.during = Gate()
    plain = background.start(bench.load)
    metered = background.start(lambda: bench.load(metered=True))
    gate.wait_for_arrival()
    gate.wait_for_arrival()
    gate.open()
    assert plain().path != metered().path


def test_who_waits_is_not_harmed_by_the_first_ones_copy_going_away(
    bench: Bench, background: Background, followers: Followers, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.wasm"
    mine.write_bytes(WASM)
    gate = bench.compiler.during = Gate()
    first = background.start(bench.load)
    gate.wait_for_arrival()
    second = background.start(lambda: bench.cache.load(DIGEST, mine, metered=False))
    followers.wait_for(1)
    bench.wasm.unlink()
    gate.open()
    with pytest.raises(ArtifactDeleted):
        first()
    assert second().path.exists()


# Tampering


def test_a_flipped_byte_anywhere_in_code_or_sidecar_is_found_by_a_new_process(bench: Bench) -> None:
    bench.load()
    originals = {path: path.read_bytes() for path in bench.files}
    for path, original in originals.items():
        for position in range(0, len(original), 3):
            overwrite(path, flipped(original, position))
            bench.compiler.compiled.clear()
            assert bench.reopened().load(DIGEST, bench.wasm, metered=False).path.exists()
            assert bench.compilations == 1, f"byte {position} of {path.suffix}"
            code = next(file for file in bench.files if file.suffix == ".cwasm")
            assert code.read_bytes() == machine_code(WASM, metered=False)


@pytest.mark.parametrize("suffix", [".cwasm", ".json"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: flipped(content, 0),
        lambda content: flipped(content, len(content) // 2),
        lambda content: b"\xff" * len(content),
        lambda content: b'{"seal":"\\ud800","statement":{}}',
    ],
)
def test_files_that_change_under_the_process_are_compiled_anew(
    bench: Bench, suffix: str, change: Callable[[bytes], bytes]
) -> None:
    path = bench.load().path.with_suffix(suffix)
    overwrite(path, change(path.read_bytes()))
    assert bench.load().path.read_bytes() == machine_code(WASM, metered=False)
    assert bench.compilations == 2
    bench.load()
    assert bench.compilations == 2


@pytest.mark.parametrize("suffix", [".cwasm", ".json"])
def test_a_missing_half_is_compiled_anew(bench: Bench, suffix: str) -> None:
    path = bench.load().path.with_suffix(suffix)
    path.unlink()
    assert bench.load().path.exists()
    assert bench.compilations == 2


def test_a_change_within_the_process_is_found_though_its_time_was_set_back(bench: Bench) -> None:
    path = bench.load().path
    before = path.stat()
    overwrite(path, flipped(path.read_bytes(), 3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert bench.load().path.read_bytes() == machine_code(WASM, metered=False)
    assert bench.compilations == 2


def test_a_file_that_was_only_touched_is_not_compiled_again(bench: Bench) -> None:
    bench.load().path.touch()
    bench.load()
    assert bench.compilations == 1


@pytest.mark.parametrize("position", [0, 1, 15, 16, 30, 31])
def test_code_sealed_with_another_key_is_compiled_anew(bench: Bench, position: int) -> None:
    bench.load()
    key = bench.directory / "key"
    overwrite(key, flipped(key.read_bytes(), position))
    bench.reopened()
    bench.load()
    assert bench.compilations == 2


def test_a_pair_does_not_pass_for_another_artifact(bench: Bench) -> None:
    other = b"\0asm another module"
    path = bench.load().path
    for suffix in (".cwasm", ".json"):
        path.with_suffix(suffix).rename(path.with_name(digest_of(other) + suffix))
    bench.wasm.write_bytes(other)
    loaded = bench.cache.load(digest_of(other), bench.wasm, metered=False)
    assert loaded.path.read_bytes() == machine_code(other, metered=False)


def test_a_pair_does_not_pass_for_another_engines(bench: Bench) -> None:
    plain, metered = bench.load(), bench.load(metered=True)
    for suffix in (".cwasm", ".json"):
        plain.path.with_suffix(suffix).replace(metered.path.with_suffix(suffix))
    assert bench.load(metered=True).path.read_bytes() == machine_code(WASM, metered=True)
    assert bench.compilations == 3


def test_an_old_sidecar_does_not_vouch_for_newer_code(bench: Bench) -> None:
    old = bench.load().path
    old_sidecar = old.with_suffix(".json").read_bytes()
    old.unlink()
    bench.compiler.ending = b"!"
    bench.load()
    overwrite(old.with_suffix(".json"), old_sidecar)
    bench.load()
    assert bench.compilations == 3


def test_a_code_file_swapped_under_a_genuine_sidecar_is_compiled_anew(bench: Bench) -> None:
    plain, metered = bench.load(), bench.load(metered=True)
    overwrite(plain.path, metered.path.read_bytes())
    assert bench.load().path.read_bytes() == machine_code(WASM, metered=False)


# The key


def test_the_key_is_made_once(tmp_path: Path) -> None:
    first = open_key(tmp_path / "key")
    assert len(first) == 32
    assert open_key(tmp_path / "key") == first
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_what_cannot_be_a_key_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert len(open_key(tmp_path / "key")) == 32


def test_who_comes_second_takes_the_key_of_who_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    first: list[bytes] = []
    hardlink_to = Path.hardlink_to

    def overtaken(self: Path, target: Path) -> None:
        monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
        first.append(open_key(path))
        hardlink_to(self, target)

    monkeypatch.setattr(Path, "hardlink_to", overtaken)
    assert open_key(path) == first[0]


# Housekeeping


def test_removal_takes_all_kinds_of_code(bench: Bench) -> None:
    bench.load()
    bench.load(metered=True)
    bench.cache.remove(DIGEST)
    assert bench.files == []
    assert bench.cache.bytes_on_disk() == 0
    bench.cache.remove(DIGEST)


def test_removed_code_is_compiled_anew(bench: Bench) -> None:
    bench.load()
    bench.cache.remove(DIGEST)
    assert bench.load().path.exists()
    assert bench.compilations == 2


def test_code_of_other_fingerprints_goes_when_the_cache_is_opened(bench: Bench) -> None:
    bench.load()
    stranger = bench.directory / "code" / "notes"
    stranger.mkdir()
    bench.reopened(FakeCompiler("b"))
    assert bench.files == []
    assert bench.cache.bytes_on_disk() == 0
    assert stranger.exists()


def test_what_a_broken_off_compilation_left_goes_when_the_cache_is_opened(bench: Bench) -> None:
    folder = bench.load().path.parent
    (folder / ".making-0123").write_bytes(b"half a file")
    bench.reopened()
    assert len(bench.files) == 2


def test_only_code_of_known_artifacts_is_retained(bench: Bench) -> None:
    bench.load()
    bench.cache.retain({DIGEST})
    assert len(bench.files) == 2
    bench.cache.retain(set())
    assert bench.files == []


def test_code_of_what_stands_beside_artifacts_is_retained(bench: Bench) -> None:
    bench.load()
    cache = CodeCache(bench.directory, bench.compiler, frozenset({DIGEST}))
    cache.open(lambda: None)
    cache.retain(set())
    assert len(bench.files) == 2


def test_bytes_on_disk_are_those_of_the_files(bench: Bench) -> None:
    for metered in (False, True, False):
        bench.load(metered=metered)
        assert bench.cache.bytes_on_disk() == sum(path.stat().st_size for path in bench.files)
    overwrite(bench.files[0], b"tampered")
    bench.load()
    bench.load(metered=True)
    size = sum(path.stat().st_size for path in bench.files)
    assert bench.cache.bytes_on_disk() == size
    assert bench.reopened().bytes_on_disk() == size


def test_a_compilers_fingerprint_is_hex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = FakeCompiler()
    monkeypatch.setattr(compiler, "fingerprint", lambda *, metered: "../../etc")
    with pytest.raises(ValueError, match="hex digits"):
        CodeCache(tmp_path, compiler).open(lambda: None)


def test_an_outsized_sidecar_is_none_of_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.load()
    monkeypatch.setattr(sidecar, "_MAX_BYTES", 16)
    bench.load()
    assert bench.compilations == 2
