from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spear_wasm.artifacts.catalog import Catalog
from tests.artifacts.fakes import FakeCompiler, digest_of
from tests.artifacts.store_bench import ONE, THREE, TWO, StoreBench

CRASH = """
import os, sys
from pathlib import Path
from spear_wasm.artifacts.catalog import Catalog
from spear_wasm.artifacts.code_cache import CodeCache
from spear_wasm.artifacts.store import ArtifactStore
from spear_wasm.config import ArtifactsConfig
from tests.artifacts.fakes import FakeCompiler, everything_runs

directory = Path(sys.argv[1])
store = ArtifactStore(directory, ArtifactsConfig(), CodeCache(directory, FakeCompiler()), everything_runs)
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
    bench = StoreBench(tmp_path, FakeCompiler())
    assert bench.names() == ["kept:v"]
    assert bench.files("artifacts") == [digest_of(b"kept") + ".wasm"]
    bench.check()
    bench.store.close()


def test_rows_whose_files_are_gone_or_cut_go_at_the_next_start(bench: StoreBench) -> None:
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


def test_a_failed_commit_takes_the_file_back(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Catalog, "enter", fail)
    with pytest.raises(sqlite3.OperationalError):
        bench.upload(ONE, "calc")
    assert bench.files("artifacts") == bench.files("code") == []


def test_files_of_other_names_are_left_alone(bench: StoreBench) -> None:
    for place in ("artifacts/README", "uploads/README", "artifacts/x.wasm"):
        (bench.directory / place).write_text("not yours")
    bench.opened()
    for place in ("artifacts/README", "uploads/README", "artifacts/x.wasm"):
        (bench.directory / place).unlink()
