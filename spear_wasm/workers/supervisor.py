"""The process that starts the workers, watches them, and ends with them. It serves nobody itself."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spear_wasm.artifacts.files import make_directory, make_private_directory
from spear_wasm.artifacts.store import remove_leftovers
from spear_wasm.board import Board
from spear_wasm.errors import ConfigurationError, InstanceError
from spear_wasm.host import prepare
from spear_wasm.locks.directory_lock import DirectoryLock
from spear_wasm.logs import configure_logs
from spear_wasm.workers.fleet import Fleet
from spear_wasm.workers.port import reserved_port
from spear_wasm.workers.process import Process
from spear_wasm.workers.shares import share_of

if TYPE_CHECKING:
    from spear_wasm.board import Seat
    from spear_wasm.config import Config
    from spear_wasm.workers.control import Line
    from spear_wasm.workers.fleet import Worker

log = structlog.get_logger()

DOORS = "workers"
"""The folder in the data directory with the sockets on which workers hear each other."""
KILL_AFTER_SECONDS = 1.0
"""What workers may take beyond the moment by which they end themselves."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class WorkerTerms:
    """What a worker is started with.

    `config` is its share of the server's, `doors` a descriptor of the folder with the sockets on which workers hear
    each other.
    """

    address: str
    data_dir: Path
    config: Config
    seat: Seat
    doors: int


def supervise(
    address: tuple[str, int],
    data_dir: Path,
    config: Config,
    on_listening: Callable[[str], None],
    serve: Callable[[WorkerTerms, Line], int],
    *,
    count: int,
) -> None:
    """Have so many workers serve on a host's port until SIGTERM or SIGINT.

    SIGHUP replaces all of them. Blocks; for the main thread of a process that has no other one. `serve` is what each
    worker does, and returns its exit code; `on_listening` is called once with the bound address when all of them
    answer.

    Raises:
        ConfigurationError: the port or the data directory cannot be had, or no worker can serve, or can any more.
        InstanceError: one had to be killed in the end, or did not end in order.
    """
    host, port = address
    shares = [share_of(config, place, count) for place in range(count)]
    configure_logs(config.log, batched=False)
    with contextlib.ExitStack() as held:
        make_directory(data_dir)
        held.enter_context(DirectoryLock(data_dir))
        # One seat for the supervisor, and one for a worker that follows another.
        board = Board(count + 2, places=count)
        prepare(config, data_dir, board.seat(0))
        doors = held.enter_context(_doors(data_dir))
        bound = f"{host}:{held.enter_context(reserved_port(host, port))}"
        supervisor = held.enter_context(contextlib.closing(_Supervisor(config)))

        def launch(worker: Worker) -> Process:
            terms = WorkerTerms(bound, data_dir, shares[worker.place.number], worker.seat, doors)
            return supervisor.fork(worker, lambda line: serve(terms, line))

        def on_gone(worker: int) -> None:
            remove_leftovers(data_dir, worker)
            (data_dir / DOORS / f"{worker}.sock").unlink(missing_ok=True)

        fleet = Fleet(
            count,
            board,
            launch=launch,
            clock=time.monotonic,
            on_listening=lambda: on_listening(bound),
            on_gone=on_gone,
        )
        log.info("supervisor started", address=bound, pid=os.getpid(), workers=count)
        supervisor.run(fleet)
    if fleet.failure:
        raise ConfigurationError(fleet.failure)
    if not fleet.all_ended_well:
        raise InstanceError("not all workers have ended in order; the log tells which")


class _Supervisor:
    """Waits for whatever the fleet has to react to."""

    def __init__(self, config: Config) -> None:
        self._stop_seconds = config.server.shutdown_grace + config.server.closing_grace
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        self._selector.register(self._signals, selectors.EVENT_READ, None)
        self._deadline: float | None = None
        self._children: dict[Worker, Process] = {}

    def close(self) -> None:
        """Let go of all that a supervisor has: at its end, and in its children, who are none."""
        for child in self._children.values():
            child.close()
        self._children.clear()
        self._selector.close()
        self._signals.close()
        self._wakeup.close()

    def fork(self, worker: Worker, main: Callable[[Line], int]) -> Process:
        """Start a worker's process, and watch it."""

        def in_child(line: Line) -> int:
            self.close()
            return main(line)

        child = self._children[worker] = Process(in_child)
        self._selector.register(child, selectors.EVENT_READ, worker)
        self._selector.register(child.line, selectors.EVENT_READ, worker)
        return child

    def run(self, fleet: Fleet) -> None:
        """Start the fleet and see it to its end."""
        with self._signals_caught():
            fleet.start()
            while fleet.alive or (fleet.next_restart is not None and not fleet.is_stopping):
                for key, _ in self._selector.select(self._seconds_to_wait(fleet)):
                    child = self._children.get(key.data)
                    if child is not None:
                        self._on_worker(fleet, key.data, child, has_ended=key.fileobj is child)
                    elif key.fileobj is self._signals:
                        self._on_signals(fleet)
                fleet.restart()
                if fleet.is_stopping and self._deadline is None:
                    self._deadline = time.monotonic() + self._stop_seconds + KILL_AFTER_SECONDS
                if self._deadline is not None and time.monotonic() > self._deadline:
                    fleet.kill()
                    self._deadline = time.monotonic() + KILL_AFTER_SECONDS  # once more, should one be left

    def _seconds_to_wait(self, fleet: Fleet) -> float | None:
        times = [each for each in (fleet.next_restart, self._deadline) if each is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_worker(self, fleet: Fleet, worker: Worker, child: Process, *, has_ended: bool) -> None:
        for message in child.line.messages():
            fleet.heard(worker, message)
        if has_ended or child.line.is_dead:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.line)
        if has_ended:
            self._selector.unregister(child)
            del self._children[worker]
            fleet.ended(worker, child.reap())

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(self._wakeup.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signals(self, fleet: Fleet) -> None:
        for number in self._signals.recv(64):
            if number == signal.SIGHUP:
                fleet.replace_all()
            elif number in _SIGNALS:
                if fleet.is_stopping:
                    log.warning("second signal: stopping at once")
                fleet.stop()


@contextlib.contextmanager
def _doors(data_dir: Path) -> Iterator[int]:
    """A descriptor of the folder for the workers' sockets, of which nothing is left from before."""
    folder = make_private_directory(data_dir / DOORS)
    for left in folder.iterdir():
        left.unlink()
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
