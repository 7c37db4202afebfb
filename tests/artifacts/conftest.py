from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts.fakes import Background, FakeCompiler, Followers
from tests.artifacts.store_bench import StoreBench


@pytest.fixture
def compiler() -> FakeCompiler:
    return FakeCompiler()


@pytest.fixture
def background() -> Iterator[Background]:
    threads = Background()
    yield threads
    threads.close()


@pytest.fixture
def followers(monkeypatch: pytest.MonkeyPatch) -> Followers:
    return Followers(monkeypatch)


@pytest.fixture
def bench(tmp_path: Path, compiler: FakeCompiler) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path, compiler)
    yield bench
    bench.check()
    bench.store.close()
