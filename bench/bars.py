"""A picture of bars, one below the other, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, ROW, HEAD = 760, 30, 70
LABELS, VALUES = 290, 70
OURS, OTHERS = "#0969da", "#8c959f"


def drawn(title: str, subtitle: str, rows: Sequence[tuple[str, float]], *, ours: str) -> str:
    """The whole picture; bars whose label begins with `ours` stand out."""
    longest = max(value for _, value in rows)
    height = HEAD + ROW * len(rows) + 10
    body = [_text(16, 26, title, size=17, weight="bold"), _text(16, 48, subtitle, fill="#57606a")]
    for number, (label, value) in enumerate(rows):
        top = HEAD + ROW * number
        width = (WIDTH - LABELS - VALUES) * value / longest
        fill = OURS if label.startswith(ours) else OTHERS
        body += [
            _text(LABELS - 10, top + 16, label, anchor="end"),
            f'<rect x="{LABELS}" y="{top + 2}" width="{width:.1f}" height="{ROW - 10}" rx="2" fill="{fill}"/>',
            _text(LABELS + width + 8, top + 16, f"{value:.0f}"),
        ]
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', paper, *body, "</svg>\n"])


def _text(
    x: float, y: float, content: str, *, size: int = 12, fill: str = "#1f2328", anchor: str = "start",
    weight: str = "normal",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(content)}</text>'
    )
