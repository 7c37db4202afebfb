from __future__ import annotations

import pytest

from spear_wasm.execution import fiber
from tests.execution.fake_fibers import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """What guests' CPU time is measured by."""
    fake = FakeClock()
    monkeypatch.setattr(fiber, "time", fake)
    return fake
