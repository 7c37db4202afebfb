"""Structured logs on standard error: one JSON object a line, or columns for people."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict

from spear_wasm.config import LogConfig

BATCH_SECONDS = 0.05


def configure_logs(config: LogConfig) -> None:
    """Set up logging for this process. Nothing that a guest or caller chose reaches the stream unescaped."""
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [structlog.processors.add_log_level]
    if as_json:
        lines = _JsonLines(sys.stderr.buffer)
        processors += [_stamp, structlog.processors.format_exc_info, _hand_over]
        factory: Any = lambda *_: lines  # noqa: E731  a factory of the one there is
    else:
        # With repr_native_str every text is escaped; JSON does so anyway.
        colors = sys.stderr.isatty()
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=colors, repr_native_str=True),
        ]
        factory = structlog.WriteLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.level.upper()]
        ),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _stamp(_: object, __: str, event: EventDict) -> EventDict:
    event["timestamp"] = time.time()
    return event


def _hand_over(_: object, __: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, object]]:
    """The arguments of the logger's method: the event as it is, to be rendered later."""
    return (event,), {}


class _JsonLines:
    """Collects events, renders and writes them some times a second: doing so at once would cost every call.

    What was logged is written when the process exits, unless it is killed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._events: list[
            EventDict
        ] = []  # appended to by any thread and swapped out whole, each in one step
        self._encoder = msgspec.json.Encoder(enc_hook=repr)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_batches, name="spear-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(self, event: EventDict) -> None:
        """Add to the next batch."""
        self._events.append(event)

    debug = info = warning = error = critical = add  # what structlog calls, by level

    def _write_batches(self) -> None:
        while not self._closing.wait(BATCH_SECONDS):
            self._write_batch()

    def _write_batch(self) -> None:
        events, self._events = self._events, []
        for event in events:
            event["timestamp"] = datetime.fromtimestamp(event["timestamp"], UTC)
        # Where nobody reads the log any more (a closed pipe, a full disk) lines are lost; they must not pile up.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(self._rendered(events))
            self._stream.flush()

    def _rendered(self, events: list[EventDict]) -> bytes:
        try:
            return self._encoder.encode_lines(events)
        except (UnicodeError, OverflowError):
            # Text with lone surrogates, or an enormous number: the standard library has an escape for both.
            return "".join(json.dumps(event, default=str) + "\n" for event in events).encode()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._closing.set()
        self._thread.join()
        self._write_batch()
