"""Engines are given back, but not so soon that a tick which comes late finds nothing there."""

from __future__ import annotations

import ctypes
from collections import deque
from types import SimpleNamespace

import pytest

from spear_wasm.engine import capi
from spear_wasm.engine.engine import LATE_TICK_SECONDS, Engine
from tests.workshop import PLAIN, TICK, Workshop, call, sandbox_of


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The engines that were deleted so far."""
    pointers: list[int] = []
    delete = capi.engine_delete

    def note(pointer: int) -> None:
        pointers.append(pointer)
        delete(pointer)

    monkeypatch.setattr("spear_wasm.engine.engine._closed", deque())
    monkeypatch.setattr(capi, "engine_delete", note)
    return pointers


def test_a_closed_engine_is_deleted_when_no_tick_can_be_on_its_way_any_more(
    deleted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [Engine(PLAIN, TICK) for _ in range(3)]
    pointers = [engine.pointer for engine in engines]
    now = 1000.0
    with monkeypatch.context() as patched:
        patched.setattr("spear_wasm.engine.engine.time", SimpleNamespace(monotonic=lambda: now))
        engines[0].close()
        now += LATE_TICK_SECONDS
        engines[1].close()
        assert deleted == []
        now += LATE_TICK_SECONDS / 2
        engines[2].close()
    assert deleted == pointers[:1]


def test_a_tick_that_comes_after_its_engine_was_closed_does_no_harm(deleted: list[int]) -> None:
    engine = Engine(PLAIN, TICK)
    engine.close()
    tick = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(capi.address_of_increment_epoch())
    tick(engine.pointer)
    assert deleted == []


def test_what_an_engine_runs_is_known_to_be_metered_or_not(workshop: Workshop) -> None:
    assert not workshop.plain.metered
    assert workshop.metered.metered


def test_a_linked_artifact_goes_when_its_last_sandbox_has_gone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[int] = []
    delete = capi.instance_pre_delete

    def note(pointer: int) -> None:
        freed.append(pointer)
        delete(pointer)

    monkeypatch.setattr(capi, "instance_pre_delete", note)
    linked = workshop.link("calc")
    pointer = linked.pointer
    with sandbox_of(linked) as sandbox:
        del linked
        assert call(sandbox, "answer") == (42,)
        assert freed == []
    del sandbox
    assert freed == [pointer]
