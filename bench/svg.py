"""A picture of lines on logarithmic scales, several panels of it, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 470, 330
"""Of a panel, with its margins."""
LEFT, TOP, RIGHT, BOTTOM = 62, 58, 16, 46
HEAD = 64
COLOURS = ("#9a6700", "#0969da", "#1a7f37", "#8250df")
LEAST = 0.01
"""What is less, is drawn there: a logarithmic scale has no place for nothing."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where, and what is written beside it."""

    across: float
    up: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order."""

    name: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines on scales of their own."""

    title: str
    subtitle: str
    lines: list[Line]


def drawn(title: str, subtitle: str, panels: list[Panel], *, across: str, up: str) -> str:
    """The whole picture, two panels beside each other."""
    height = HEAD + HEIGHT * -(-len(panels) // 2)
    body = [_text(16, 26, title, size=17, weight="bold"), _text(16, 46, subtitle, fill="#57606a")]
    at = 2 * WIDTH - 16
    for number, line in reversed(list(enumerate(panels[0].lines))):
        body.append(_text(at, 26, line.name, fill=COLOURS[number], anchor="end", weight="bold"))
        at -= 12 + 9 * len(line.name)
    for number, panel in enumerate(panels):
        x, y = WIDTH * (number % 2), HEAD + HEIGHT * (number // 2)
        body += [f'<g transform="translate({x},{y})">', *_panel(panel, across, up), "</g>"]
    box = f'viewBox="0 0 {2 * WIDTH} {height}" font-family="sans-serif"'
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', paper, *body, "</svg>\n"])


def _panel(panel: Panel, across: str, up: str) -> Iterator[str]:
    points = [point for line in panel.lines for point in line.points]
    x = _scale([point.across for point in points], LEFT, WIDTH - RIGHT)
    y = _scale([point.up for point in points], HEIGHT - BOTTOM, TOP)
    yield _text(LEFT, 20, panel.title, size=13, weight="bold")
    yield _text(LEFT, 38, panel.subtitle, fill="#57606a")
    for tick in _ticks([point.across for point in points]):
        yield f'<path d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eaeef2"/>'
        yield _text(x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", anchor="middle")
    for tick in _ticks([point.up for point in points]):
        yield f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#eaeef2"/>'
        yield _text(LEFT - 6, y(tick) + 4, f"{tick:g}", anchor="end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, anchor="middle", fill="#57606a")
    yield (
        f'<g transform="translate(14,{(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
        f"{_text(0, 0, up, anchor='middle', fill='#57606a')}</g>"
    )
    for number, line in enumerate(panel.lines):
        places = [(x(point.across), y(point.up), point.label) for point in line.points]
        path = "L".join(f"{across:.1f} {up:.1f}" for across, up, _ in places)
        yield f'<path d="M{path}" fill="none" stroke="{COLOURS[number]}" stroke-width="1.6"/>'
        for place_x, place_y, label in places:
            yield f'<circle cx="{place_x:.1f}" cy="{place_y:.1f}" r="3" fill="{COLOURS[number]}"/>'
            yield _text(place_x + 5, place_y - 4 - 9 * (number % 2), label, size=9, fill=COLOURS[number])


def _scale(values: list[float], first: float, last: float) -> Callable[[float], float]:
    ticks = _ticks(values)
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    return lambda value: first + (last - first) * (math.log10(max(value, LEAST)) - low) / (high - low)


def _ticks(values: list[float]) -> list[float]:
    """Powers of ten around all of them."""
    low = math.floor(math.log10(max(min(values), LEAST)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    return [10.0**power for power in range(low, high + 1)]


def _text(
    x: float, y: float, content: str, *, size: int = 11, fill: str = "#1f2328", anchor: str = "start",
    weight: str = "normal",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(content)}</text>'
    )
