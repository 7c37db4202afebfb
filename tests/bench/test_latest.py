"""The kept figures: each benchmark's are of one time and machine, whatever is measured when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import latest, machine
from bench.__main__ import BENCHMARKS
from bench.figure import Figure

KNOWN = ("first", "second", "third")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_part_that_is_measured_again_leaves_the_others_with_what_they_were_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results" / "latest.json"
    for when, name, measured in ((1, "second", 10.0), (2, "first", 20.0), (3, "second", 30.0)):
        monkeypatch.setattr(machine, "facts", lambda when=when: {"measured_at": when})
        latest.keep(name, [Figure("cost", measured, at_most=25)], known=KNOWN, path=path)
    kept = read(path)
    assert list(kept) == ["first", "second"]
    assert [each["measured_on"] for each in kept.values()] == [{"measured_at": 2}, {"measured_at": 3}]
    assert [[(it["measured"], it["met"]) for it in each["figures"]] for each in kept.values()] == [
        [(20.0, True)],
        [(30.0, False)],
    ]


def test_what_is_no_benchmark_any_more_goes(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    latest.keep("first", [], known=KNOWN, path=path)
    latest.keep("second", [], known=KNOWN[1:], path=path)
    assert list(read(path)) == ["second"]


def test_the_figures_of_this_repository_say_when_each_was_measured() -> None:
    kept = read(latest.LATEST)
    assert kept.keys() <= BENCHMARKS.keys()
    assert all(each["measured_on"]["measured_at"] and each["figures"] for each in kept.values())
