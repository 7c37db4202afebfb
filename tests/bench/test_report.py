"""What was measured, written for people."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import latest, report
from bench.figure import Figure


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "latest.json"
    figures = [
        Figure("ours / theirs", 0.5, at_most=0.6),
        Figure("ours <above> theirs", 70, "us", at_most=50),
        Figure("spear-wasm (gRPC): CPU a call", 100, "us"),
        Figure("others & more (HTTP): CPU a call", 200, "us"),
    ]
    latest.keep("against_peers", figures, known=["against_peers"], path=path)
    monkeypatch.setattr(latest, "read", lambda: _read(path))
    return tmp_path


_read = latest.read


def test_the_table_says_what_was_measured_and_whether_it_is_enough(kept: Path) -> None:
    report.write(kept / "README.md", kept / "peers.svg")
    text = (kept / "README.md").read_text(encoding="utf-8")
    assert "## against_peers" in text
    assert "| ours / theirs | 0.5 | at most 0.6 | met |" in text
    assert "| ours <above> theirs | 70 us | at most 50 | **not met** |" in text


def test_the_picture_has_a_bar_for_each_contestant_the_cheapest_first(kept: Path) -> None:
    report.write(kept / "README.md", kept / "peers.svg")
    picture = ElementTree.parse(kept / "peers.svg")
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[2:] == ["spear-wasm (gRPC)", "100", "others & more (HTTP)", "200"]
