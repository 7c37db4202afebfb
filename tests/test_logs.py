"""What becomes of logged events."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from spear_wasm.logs import _JsonLines


def written(*events: dict[str, Any]) -> list[dict[str, Any]]:
    stream = io.BytesIO()
    lines = _JsonLines(stream)
    for event in events:
        lines.add(event | {"timestamp": 1.5})
    lines.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_json_with_the_time_at_which_it_was_logged() -> None:
    assert written({"event": "one"}, {"event": "two"}) == [
        {"event": "one", "timestamp": "1970-01-01T00:00:01.500000Z"},
        {"event": "two", "timestamp": "1970-01-01T00:00:01.500000Z"},
    ]


def test_what_a_guest_wrote_reaches_the_log_escaped() -> None:
    stream = io.BytesIO()
    lines = _JsonLines(stream)
    lines.add({"event": "\x1b[2J\n{}", "timestamp": 0.0})
    lines.close()
    assert b"\x1b" not in stream.getvalue()
    assert stream.getvalue().count(b"\n") == 1


@pytest.mark.parametrize("odd", ["\ud800", 2**80])
def test_a_value_that_json_lacks_costs_no_other_event_its_line(odd: object) -> None:
    assert [event["event"] for event in written({"event": "before"}, {"event": "odd", "value": odd})] == [
        "before",
        "odd",
    ]


def test_a_value_of_another_kind_is_shown_as_python_shows_it() -> None:
    assert written({"event": "odd", "value": 1j})[0]["value"] == "1j"


def test_lines_that_cannot_be_written_do_not_pile_up() -> None:
    stream = io.BytesIO()
    lines = _JsonLines(stream)
    stream.close()
    lines.add({"event": "lost", "timestamp": 0.0})
    lines.close()
    assert lines._events == []
