from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from spear_wasm.execution import fiber
from spear_wasm.host import open_host
from tests.execution.fake_fibers import FakeClock
from tests.execution.guests import STOCK, Guests, config_with, guests_on, upload

OpenGuests = Callable[..., Guests]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """What guests' CPU time is measured by."""
    fake = FakeClock()
    monkeypatch.setattr(fiber, "time", fake)
    return fake


@pytest.fixture(scope="session")
def stocked_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory where the fixtures are uploaded and compiled; not to be written to."""
    directory = tmp_path_factory.mktemp("stock") / "data"
    with open_host(config_with(), directory) as host:
        for name in STOCK:
            upload(host.artifacts, name)
    return directory


@pytest.fixture
def open_guests(stocked_dir: Path, tmp_path: Path) -> Iterator[OpenGuests]:
    """Opens hosts: `open_guests(execution={"max_running": 2})`; `directory` for that of an earlier one."""
    numbers = itertools.count(1)
    with ExitStack() as closing:

        def open_one(directory: Path | None = None, **tables: dict[str, Any]) -> Guests:
            if directory is None:
                directory = shutil.copytree(stocked_dir, tmp_path / f"data {next(numbers)}")
            return closing.enter_context(guests_on(directory, config_with(**tables)))

        yield open_one


@pytest.fixture
def guests(open_guests: OpenGuests) -> Guests:
    """A host with plenty of room."""
    return open_guests()
