"""What was measured last: each benchmark's figures with the machine and the time that they are of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.figure import Figure

LATEST = Path(__file__).parent / "results" / "latest.json"


def keep(name: str, figures: Iterable[Figure], *, known: Iterable[str], path: Path = LATEST) -> None:
    """Put a benchmark's figures in the place of its earlier ones; what others measured stays as it is.

    Benchmarks that are no longer `known` go.
    """
    kept = read(path)
    kept[name] = {
        "measured_on": machine.facts(),
        "figures": [asdict(figure) | {"met": figure.met} for figure in figures],
    }
    document = {each: kept[each] for each in known if each in kept}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read(path: Path = LATEST) -> dict[str, Mapping[str, Any]]:
    """All that is kept, by the name of its benchmark."""
    if not path.exists():
        return {}
    kept: dict[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return kept
