"""Processes that a supervisor forks, and that never outlive it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from spear_wasm.workers.control import Line, Message

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Process:
    """A child of this process that runs `main`, which is given its line to the parent and returns an exit code.

    It is forked, not started anew: it has all modules by then, which take most of a second to import on a busy
    machine. So the parent must have no threads. The kernel kills it when the parent is gone, however that ends.
    """

    def __init__(self, main: Callable[[Line], int]) -> None:
        self.line, theirs = Line.pair()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self.line.close()
            _run(main, theirs, parent)
        theirs.close()
        self._descriptor = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """Readable when the process has ended."""
        return self._descriptor

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def tell(self, message: Message) -> None:
        """Send a message, if it is still there."""
        self.line.send(message)

    def close(self) -> None:
        """Let go of it, whether it has ended or not."""
        os.close(self._descriptor)
        self.line.close()

    def reap(self) -> int:
        """Wait for its end and let go of it; the exit code, negative for the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.close()
        return os.waitstatus_to_exitcode(status)


def _run(main: Callable[[Line], int], line: Line, parent: int) -> NoReturn:
    code = 1
    try:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it has gone before it could be tied to us
            _forget_signals()
            code = main(line)
    except BaseException:  # noqa: BLE001  nothing of this process may return into the parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _forget_signals() -> None:
    """Nothing of the parent's handling stays; a terminal's signals are the parent's to handle."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
