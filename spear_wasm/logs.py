"""Structured logs on standard error: one JSON object a line, or columns for people."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
from typing import Any, BinaryIO

import msgspec
import structlog

from spear_wasm.config import LogConfig

BATCH_SECONDS = 0.05


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
        factory: Any = structlog.BytesLoggerFactory(_BatchedStream(sys.stderr.buffer))  # type: ignore[arg-type]  # it has what a BytesLogger uses
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


class _BatchedStream:
    """Collects lines and writes them some times a second: a system call for each would cost every call.

    What was logged is written when the process exits, unless it is killed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []  # appended to by any thread and swapped out whole, each in one step
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_batches, name="spear-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        """Add to the next batch."""
        self._lines.append(line)

    def flush(self) -> None:
        """The thread does that."""

    def _write_batches(self) -> None:
        while not self._closing.wait(BATCH_SECONDS):
            self._write_batch()

    def _write_batch(self) -> None:
        lines, self._lines = self._lines, []
        # Where nobody reads the log any more (a closed pipe, a full disk) lines are lost; they must not pile up.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(b"".join(lines))
            self._stream.flush()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._closing.set()
        self._thread.join()
        self._write_batch()


def _json_line(event: dict[str, object], **_: object) -> bytes:
    # structlog also hands on what it would give json.dumps.
    return msgspec.json.encode(event, enc_hook=repr)
