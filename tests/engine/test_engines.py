"""Which engines there are, and that there are none which the kernel would not let this process have."""

from __future__ import annotations

import platform
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from spear_wasm.engine import engines as module
from spear_wasm.engine.engines import Engines
from spear_wasm.engine.outcome import GuestFault
from spear_wasm.engine.settings import WHOLE_MEMORY, reservation_for
from spear_wasm.errors import SandboxUnavailable
from spear_wasm.model import ErrorCode
from tests.workshop import METERED, PLAIN, TICK, Workshop, call, sandbox_of


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
    many = replace(PLAIN, sandboxes=most // 3, max_memory_bytes=65536, memory_reservation=65536)
    with closing(Engines([many], TICK)) as engines:
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


@pytest.mark.parametrize("sandboxes", [1, 1000, 2000])
def test_memories_reserve_all_that_a_guest_can_address_where_there_is_room(
    sandboxes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert reservation_for(1 << 20, sandboxes) == WHOLE_MEMORY


def test_memories_reserve_their_ceiling_where_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert reservation_for(1 << 20, 10_000) == 1 << 20
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert reservation_for(1 << 20, 1) == 1 << 20


@pytest.mark.parametrize("reservation", [WHOLE_MEMORY, PLAIN.max_memory_bytes])
def test_a_guest_that_reaches_beyond_its_memory_traps_however_much_is_reserved(
    reservation: int, tmp_path: Path
) -> None:
    settings = replace(PLAIN, memory_reservation=reservation)
    with closing(Workshop(tmp_path, settings)) as workshop, sandbox_of(workshop.link("hostile")) as sandbox:
        for name in ("out_of_bounds", "out_of_bounds_edge"):
            with pytest.raises(GuestFault) as fault:
                call(sandbox, name)
            assert fault.value.code is ErrorCode.TRAP_OUT_OF_BOUNDS
