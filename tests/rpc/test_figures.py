"""What makes a server complain of itself, with the measures forced that no test can bring about."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from spear_wasm.api import function_pb2 as pb
from spear_wasm.engine.ticker import Pace
from spear_wasm.host import Host, open_host
from spear_wasm.rpc.figures import LATE_TICKS, LOW_DISK_BYTES, Figures
from spear_wasm.rpc.reports import ServerFigures, health_response
from tests.execution.guests import config_with

GIB = 1 << 30


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with open_host(config_with(), tmp_path_factory.mktemp("figures") / "data") as host:
        yield host


@pytest.fixture
def figures(host: Host, monkeypatch: pytest.MonkeyPatch) -> Figures:
    """Of a host on a disk with plenty of room, whatever the machine's is like."""
    set_disk(monkeypatch, free=500 * GIB, total=1000 * GIB)
    return Figures(host)


def set_disk(monkeypatch: pytest.MonkeyPatch, *, free: int, total: int) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=total))


def health_of(figures: Figures) -> pb.GetHealthResponse:
    return health_response(ServerFigures(0, [figures.read()]), (), details=False)


def is_degraded(figures: Figures) -> bool:
    health = health_of(figures)
    assert (health.status, health.healthy) in {("degraded", False), ("healthy", True)}
    return not health.healthy


@pytest.mark.parametrize("metered", [False, True])
def test_a_late_clock_is_a_degraded_server_until_it_is_on_time_again(
    metered: bool, host: Host, figures: Figures
) -> None:
    ticker = host.engines.get(metered=metered).ticker
    late = 3 * LATE_TICKS * ticker.period
    assert not is_degraded(figures)
    ticker.slice_was_cut(Pace.FULL, late)
    assert not is_degraded(figures), "one late tick is nothing"
    for _ in range(100):
        ticker.slice_was_cut(Pace.FULL, late)
    assert is_degraded(figures)
    assert health_of(figures).message == f"the guests' clock is {ticker.lag * 1000:.1f} ms late"
    for _ in range(100):
        ticker.slice_was_cut(Pace.FULL, ticker.period)
    assert not is_degraded(figures)


@pytest.mark.parametrize(
    ("free", "total", "degraded"),
    [
        (LOW_DISK_BYTES - 1, GIB, True),
        (LOW_DISK_BYTES, GIB, False),
        (GIB, 100 * GIB, True),
        (2 * GIB, 100 * GIB, False),
    ],
)
def test_a_disk_that_is_nearly_full_is_a_degraded_server(
    free: int, total: int, degraded: bool, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_disk(monkeypatch, free=free, total=total)
    assert is_degraded(figures) == degraded
    said = f"the disk of the data directory has {free >> 20} MiB left"
    assert (health_of(figures).message == said) == degraded


def test_all_complaints_are_told(host: Host, figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    set_disk(monkeypatch, free=0, total=GIB)
    monkeypatch.setattr(type(host.manager), "line_fullness", 0.9)
    message = health_of(figures).message
    assert message == (
        "the disk of the data directory has 0 MiB left; the line of waiting executions is 90% full"
    )
