"""Structured logs on standard error: one JSON object a line, or columns for people."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from spear_wasm.config import LogConfig


def configure_logs(config: LogConfig) -> None:
    """Set up logging for this process. Nothing that a guest or caller chose reaches the stream unescaped."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    # With repr_native_str every text is escaped; JSON does so anyway.
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), repr_native_str=True)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
