"""Structured logs on standard error: one JSON object a line, or columns for people."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict

from spear_wasm.config import LogConfig

BATCH_SECONDS = 0.05


def configure_logs(config: LogConfig, worker: int = 0, *, batched: bool = True) -> Callable[[], None]:
    """Set up logging for this process. Nothing that a guest or caller chose reaches the stream unescaped.

    Each line tells the number of the `worker` that it comes from, where there are several. Not `batched`, lines are
    written at once, without a thread. What is returned writes what is left, for processes that end as they are.
    """
    close: Callable[[], None] = sys.stderr.flush
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    processors: list[structlog.typing.Processor]
    if as_json:
        lines = _JsonLines(sys.stderr.buffer, batched=batched)
        close = lines.close
        processors = [_hand_over]
        factory: Any = lambda *_: lines  # noqa: E731  a factory of the one there is
    else:
        # With repr_native_str every text is escaped; JSON does so anyway.
        colors = sys.stderr.isatty()
        processors = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=colors, repr_native_str=True),
        ]
        factory = structlog.WriteLoggerFactory(sys.stderr)
    if worker:
        processors.insert(0, partial(_with_worker, worker))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.level.upper()]
        ),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    return close


def _with_worker(worker: int, _logger: object, _level: str, event: EventDict) -> EventDict:
    event["worker"] = worker
    return event


def _hand_over(logger: object, level: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, object]]:
    """The arguments of the logger's method: the event, complete, to be rendered later.

    One processor, not a chain of them: every call's end comes this way.
    """
    event["level"] = level
    event["timestamp"] = time.time()
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return (event,), {}


class _JsonLines:
    """Collects events, renders and writes them some times a second: doing so at once would cost every call.

    What was logged is written when the process exits, unless it is killed.
    """

    def __init__(self, stream: BinaryIO, *, batched: bool = True) -> None:
        self._stream = stream
        self._batched = batched
        self._events: list[
            EventDict
        ] = []  # appended to by any thread and swapped out whole, each in one step
        self._encoder = msgspec.json.Encoder(enc_hook=repr)
        self._closing = threading.Event()
        if batched:
            self._thread = threading.Thread(target=self._write_batches, name="spear-log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def add(self, event: EventDict) -> None:
        """Add to the next batch."""
        self._events.append(event)
        if not self._batched:
            self._write_batch()

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
        if self._batched:
            self._thread.join()
        self._write_batch()
