from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from spear_wasm.execution import fiber
from spear_wasm.host import open_host
from tests.execution.fake_fibers import FakeClock
from tests.execution.guests import STOCK, Guests, config_with, guests_on, upload

OpenGuests = Callable[..., Guests]


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_logged() -> Iterator[None]:
    """An execution's end may be logged after its test has ended."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


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
    """Opens a host: `open_guests(execution={"max_running": 2})`."""
    with ExitStack() as closing:

        def open_one(**tables: dict[str, Any]) -> Guests:
            data_dir = shutil.copytree(stocked_dir, tmp_path / "data")
            return closing.enter_context(guests_on(data_dir, config_with(**tables)))

        yield open_one


@pytest.fixture
def guests(open_guests: OpenGuests) -> Guests:
    """A host with plenty of room."""
    return open_guests()
