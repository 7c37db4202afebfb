"""Which engines there are, and that there are none which the kernel would not let this process have."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from spear_wasm.engine import engines as module
from spear_wasm.engine.engines import Engines
from spear_wasm.errors import SandboxUnavailable
from tests.workshop import METERED, PLAIN, TICK


def test_an_engine_is_made_when_it_is_first_asked_for() -> None:
    with closing(Engines((PLAIN, METERED), TICK)) as engines:
        assert engines.open() == []
        plain = engines.get(metered=False)
        assert engines.open() == [plain]
        metered = engines.get(metered=True)
        assert (plain.metered, metered.metered) == (False, True)
        assert engines.get(metered=False) is plain
        assert engines.get(metered=True) is metered
        assert engines.open() == [plain, metered]


def test_more_sandboxes_than_the_kernel_lets_a_process_have_are_refused_and_do_not_end_it() -> None:
    most = module._most_maps()
    assert most is not None
    with closing(Engines([replace(PLAIN, sandboxes=most // 3, max_memory_bytes=65536)], TICK)) as engines:
        with pytest.raises(SandboxUnavailable, match=rf"lets a process have {most}; .* vm.max_map_count"):
            engines.get(metered=False)
        assert engines.open() == []


def test_maps_that_are_taken_otherwise_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Engines([replace(PLAIN, sandboxes=10)], TICK)) as engines:
        monkeypatch.setattr(module, "_most_maps", lambda: module._maps() + module.OTHER_MAPS)
        with pytest.raises(SandboxUnavailable):
            engines.get(metered=False)
        monkeypatch.setattr(module, "_most_maps", lambda: module._maps() + module.OTHER_MAPS + 1000)
        engines.get(metered=False)


def test_more_addresses_than_a_process_has_are_refused_by_name() -> None:
    settings = replace(PLAIN, sandboxes=10_000, max_memory_bytes=4 << 30)
    with (
        closing(Engines([settings], TICK)) as engines,
        pytest.raises(SandboxUnavailable, match=r"lower engine.sandboxes or ceiling.max_memory"),
    ):
        engines.get(metered=False)
