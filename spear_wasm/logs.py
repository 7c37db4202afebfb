"""Structured logs on standard error: one JSON object a line, or columns for people."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

from spear_wasm.config import LogConfig


def configure_logs(config: LogConfig) -> None:
    """Set up logging for this process. Nothing that a guest or caller chose reaches the stream unescaped."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if as_json:
        # Bytes all the way: every call writes an event, and this is the cheapest way to do it.
        shared.append(structlog.processors.JSONRenderer(serializer=_json_line))
        factory: Any = structlog.BytesLoggerFactory(sys.stderr.buffer)
    else:
        # With repr_native_str every text is escaped; JSON does so anyway.
        colors = sys.stderr.isatty()
        shared.append(structlog.dev.ConsoleRenderer(colors=colors, repr_native_str=True))
        factory = structlog.WriteLoggerFactory(sys.stderr)
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.level.upper()]
        ),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _json_line(event: dict[str, object], default: object = None, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)
