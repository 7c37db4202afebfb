"""Sizes and durations as people write them: `64MiB`, `1h30m`, `250ms`."""

from __future__ import annotations

import re

_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 10**3,
    "m": 1 << 20, "mib": 1 << 20, "mb": 10**6,
    "g": 1 << 30, "gib": 1 << 30, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip
_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]{0,3})")
_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(us|ms|s|m|h|d)")


def parse_size(text: str) -> int:
    """Bytes in a size such as `512`, `64MiB`, `1.5G` (single letters are powers of 1024).

    Raises:
        ValueError: the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write 512, 64KiB, 1.5GiB")
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `2s`, `1h30m`, `250ms`; a bare number is seconds.

    Raises:
        ValueError: the text is no duration.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 2s, 1h30m")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def format_size(count: int) -> str:
    """A size for people: `64 KiB`, `1.5 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(abs(amount), 1) < 1024:
            return f"{amount:.0f} {unit}" if amount == int(amount) else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def format_duration(seconds: float) -> str:
    """A duration for people: `850 us`, `12.3 ms`, `4.2 s`, `1h 02m`."""
    if round(seconds * 1e6) < 1000:
        return f"{seconds * 1e6:.0f} us"
    if round(seconds * 1e3, 1) < 1000:
        return f"{seconds * 1e3:.1f} ms"
    if round(seconds, 1) < 120:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {int(seconds) % 60:02d}s"
