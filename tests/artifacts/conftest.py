from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.artifacts.fakes import Background, FakeCompiler, Followers


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
