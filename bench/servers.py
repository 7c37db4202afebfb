"""Servers in processes of their own, started for a benchmark and stopped after it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

FIXTURES = Path(__file__).parent.parent / "fixtures" / "wasm"
_CPU_TIME = 2
"""What Linux's clock ids say beside a process: the time that its threads were on a core (clock_getcpuclockid)."""


def cpu_seconds_of(pid: int) -> float:
    """CPU time of all of a process's threads, to the nanosecond: what /proc tells is in hundredths of a second."""
    return time.clock_gettime(~pid << 3 | _CPU_TIME)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. Its process's own figures do not include its children's."""

    address: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far."""
        return cpu_seconds_of(self.process.pid)

    def rss(self) -> int:
        """Resident bytes."""
        return int(self.process.memory_info().rss)


@contextlib.contextmanager
def spear_server(directory: Path, config: str = "") -> Iterator[Server]:
    """Ours, with its data and its JSON log in `directory`; one process, unless `config`, which is TOML, says more."""
    config_file = directory / "config.toml"
    config_file.write_text(config, encoding="utf-8")
    arguments = ["spear_wasm.cli", "serve", "--addr", "127.0.0.1:0", "--log-format", "json"]
    arguments += ["--data-dir", str(directory / "data"), "--config", str(config_file)]
    if not re.search(r"^workers\s*=", config, re.MULTILINE):
        arguments += ["--workers", "1"]
    with running(arguments, directory / "server.log") as server:
        yield server


@contextlib.contextmanager
def running(arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """A Python module that serves, and says so with `listening on HOST:PORT`. Its standard error goes to `log`."""
    with started([sys.executable, "-m", *arguments], log) as server:
        yield server


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, listening: re.Pattern[str] = re.compile(r"listening on (\S+)")
) -> Iterator[Server]:
    """A command that serves, and prints a line with its address once it does: the first group of `listening`."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            text=True,
        )
    assert process.stdout is not None
    try:
        address = listening.search(process.stdout.readline())
        if address is None:
            raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
        yield Server(address[1], psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
