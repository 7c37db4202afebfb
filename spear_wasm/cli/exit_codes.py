"""What a shell script learns from the way a command ended."""

from __future__ import annotations

from enum import IntEnum

from spear_wasm.client import CallResult, RemoteError, ServerUnreachable
from spear_wasm.errors import SpearError
from spear_wasm.model import ErrorCode


class ExitCode(IntEnum):
    """The numbers that every command ends with."""

    OK = 0
    GUEST_FAILED = 1
    CALLERS_MISTAKE = 2
    SERVER_FAILED = 3
    UNREACHABLE = 4
    TIMED_OUT = 124
    INTERRUPTED = 130


EXPLAINED = """\
\b
Exit codes:
    0  done
    1  the guest failed: a trap, a limit, an error of its own
    2  a mistake in what was asked for: usage, arguments, unknown or taken names
    3  the server refused or failed: it is busy, full, shutting down, or broken
    4  no server answers
  124  the time was up: wall time or CPU time
  130  interrupted from the keyboard
"""

_CALLERS_MISTAKES = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"}


def of_error(error: SpearError) -> ExitCode:
    """How a command ends that could not be carried out."""
    if isinstance(error, ServerUnreachable):
        return ExitCode.UNREACHABLE
    status = error.code.name if isinstance(error, RemoteError) else error.status.name
    if status in _CALLERS_MISTAKES:
        return ExitCode.CALLERS_MISTAKE
    return ExitCode.TIMED_OUT if status == "DEADLINE_EXCEEDED" else ExitCode.SERVER_FAILED


def of_result(result: CallResult) -> ExitCode:
    """How a command ends that ran a guest."""
    if result.ok:
        return ExitCode.OK
    match result.error_code:
        case ErrorCode.TIMEOUT | ErrorCode.CPU_TIME_EXCEEDED:
            return ExitCode.TIMED_OUT
        case ErrorCode.INSTANCE_FAILED | ErrorCode.WORKER_LOST:
            return ExitCode.SERVER_FAILED
        case _:
            return ExitCode.GUEST_FAILED
