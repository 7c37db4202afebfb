"""Every error this package raises on purpose, as one tree.

    SpearError
    ├── ArtifactError         the uploaded bytes, their names, their storage
    │   ├── InvalidArtifact         INVALID_ARGUMENT     not a module we can run; says what and at which byte
    │   ├── ArtifactTooLarge        INVALID_ARGUMENT     above the server's ceiling for one artifact
    │   ├── ChecksumMismatch        INVALID_ARGUMENT     the bytes are not the ones that were announced
    │   ├── CompileRefused          INVALID_ARGUMENT     compiling took more than one upload may take
    │   ├── CompilerKilled          UNAVAILABLE          something outside ended the compilation
    │   ├── ArtifactNotFound        NOT_FOUND
    │   ├── VersionExists           ALREADY_EXISTS       versions do not move
    │   ├── ArtifactInUse           FAILED_PRECONDITION  tasks refer to it
    │   ├── ArtifactDeleted         FAILED_PRECONDITION  a task's artifact was removed by force
    │   ├── StorageFull             RESOURCE_EXHAUSTED   counts or bytes on disk are at their bound
    │   ├── TooManyUploads          RESOURCE_EXHAUSTED   try again later
    │   ├── LocationForbidden       PERMISSION_DENIED    nowhere that the operator allows to fetch from
    │   ├── FetchFailed             UNAVAILABLE          a location did not give what it should
    │   └── UploadStalled           DEADLINE_EXCEEDED    no bytes came for too long
    ├── TaskError             registrations and calls that cannot be accepted
    │   ├── InvalidRequest          INVALID_ARGUMENT
    │   ├── PermissionDenied        PERMISSION_DENIED    the operator did not allow what it asks for
    │   ├── TaskNotFound            NOT_FOUND
    │   ├── FunctionNotFound        NOT_FOUND
    │   ├── ExecutionNotFound       NOT_FOUND            never accepted, or forgotten since
    │   ├── TaskExists              ALREADY_EXISTS       the name is taken by another spec
    │   ├── ExecutionExists         INVALID_ARGUMENT     the execution id is another request's
    │   ├── ExecutionElsewhere      UNAVAILABLE          another worker of the server has it
    │   ├── JournalFailed           UNAVAILABLE          the disk did not take a call or an outcome that is to be kept
    │   ├── TaskBusy                FAILED_PRECONDITION  it has executions waiting or running
    │   ├── TooManyTasks            RESOURCE_EXHAUSTED
    │   ├── ServerBusy              RESOURCE_EXHAUSTED   the line is full; says when to try again
    │   ├── BatchTooLarge           INVALID_ARGUMENT     more inputs or bytes than one batch may have
    │   └── ReaderStalled           DEADLINE_EXCEEDED    a stream's reader has stayed away
    ├── AccessDenied          UNAUTHENTICATED      the caller brought no token that the server knows
    ├── InstanceError         sandboxes, on the host's side
    │   ├── SandboxUnavailable      INTERNAL             none could be made
    │   ├── ServerDraining          UNAVAILABLE          shutting down
    │   └── WorkerSilent            UNAVAILABLE          another worker of the server does not answer
    ├── GuestRuntimeError     runtimes: what recognises, links and calls guests
    │   ├── UnknownRuntime          INVALID_ARGUMENT
    │   └── UnlinkableArtifact      FAILED_PRECONDITION  imports that no runtime provides
    └── ConfigurationError    the operator's mistakes; INVALID_ARGUMENT

What a *guest* did (a trap, an empty fuel tank, a timeout) is not an error of ours but the outcome of an
execution: see `spear_wasm.model.Outcome`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class StatusCode(IntEnum):
    """The canonical gRPC status codes that our errors use, by their wire numbers."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


RETRY_WHEN_FULL_SECONDS = 10.0
"""The hint with a RESOURCE_EXHAUSTED that knows no better: somebody has to delete something first."""


class SpearError(Exception):
    """Root of the tree.

    Attributes:
        status: the gRPC status that callers see.
        reason: the ErrorInfo reason, UPPER_SNAKE_CASE, unique in the tree.
        metadata: small facts for programs (names, numbers); values may hold caller- or guest-chosen text.
        retry_after: seconds after which the same call may succeed, or None where waiting does not help. What
            is exhausted may come free again, so every RESOURCE_EXHAUSTED has one.
    """

    status: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    by_reason: ClassVar[dict[str, type[SpearError]]] = {}

    def __init__(self, message: str, *, retry_after: float | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is None and self.status is StatusCode.RESOURCE_EXHAUSTED:
            retry_after = RETRY_WHEN_FULL_SECONDS
        self.retry_after = retry_after
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __init_subclass__(cls, status: StatusCode | None = None, reason: str | None = None) -> None:
        if status is not None:
            cls.status = status
        cls.reason = reason or _reason_of(cls.__name__)
        if cls.reason in SpearError.by_reason:
            raise TypeError(f"two error classes share the reason {cls.reason}")
        SpearError.by_reason[cls.reason] = cls


def _reason_of(class_name: str) -> str:
    return "".join("_" + letter if letter.isupper() else letter for letter in class_name).strip("_").upper()


class ArtifactError(SpearError):
    """Something is wrong with an artifact, its names or its storage."""


class InvalidArtifact(ArtifactError, status=StatusCode.INVALID_ARGUMENT):
    """The bytes are not a module that this server runs; the message says what and at which byte."""


class ArtifactTooLarge(ArtifactError, status=StatusCode.INVALID_ARGUMENT):
    """The upload is above the server's ceiling for one artifact."""


class ChecksumMismatch(ArtifactError, status=StatusCode.INVALID_ARGUMENT):
    """The bytes are not the ones that the checksum or the size announced."""


class CompileRefused(ArtifactError, status=StatusCode.INVALID_ARGUMENT):
    """Compiling the module took more time or memory than one upload may take."""


class CompilerKilled(ArtifactError, status=StatusCode.UNAVAILABLE):
    """Something outside ended a compilation that broke no limit: the host's fault, not the module's."""


class ArtifactNotFound(ArtifactError, status=StatusCode.NOT_FOUND):
    """No artifact goes by that reference."""


class VersionExists(ArtifactError, status=StatusCode.ALREADY_EXISTS):
    """The name and version exist with other bytes; versions do not move."""


class ArtifactInUse(ArtifactError, status=StatusCode.FAILED_PRECONDITION):
    """Tasks refer to the artifact; delete them first, or force."""


class ArtifactDeleted(ArtifactError, status=StatusCode.FAILED_PRECONDITION):
    """The task's artifact was removed by force; upload it again."""


class StorageFull(ArtifactError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The number of artifacts or their bytes on disk are at the server's bound."""


class TooManyUploads(ArtifactError, status=StatusCode.RESOURCE_EXHAUSTED):
    """As many uploads run as the server allows at once."""


class LocationForbidden(ArtifactError, status=StatusCode.PERMISSION_DENIED):
    """A file, a host or an address that the operator does not allow anything to be fetched from."""


class FetchFailed(ArtifactError, status=StatusCode.UNAVAILABLE):
    """A location that is allowed did not give what it should: it may another time."""


class UploadStalled(ArtifactError, status=StatusCode.DEADLINE_EXCEEDED):
    """The upload sent nothing for longer than the server waits."""


class TaskError(SpearError):
    """A registration or a call cannot be accepted."""


class InvalidRequest(TaskError, status=StatusCode.INVALID_ARGUMENT):
    """The caller's request does not make sense; the message says which field and why."""


class PermissionDenied(TaskError, status=StatusCode.PERMISSION_DENIED):
    """The task asks for something that the operator did not allow; the message names it."""


class TaskNotFound(TaskError, status=StatusCode.NOT_FOUND):
    """No task has that id or name."""


class FunctionNotFound(TaskError, status=StatusCode.NOT_FOUND):
    """The task's artifact exports no callable function of that name."""


class ExecutionNotFound(TaskError, status=StatusCode.NOT_FOUND):
    """No execution has that id, or its record is no longer kept."""


class TaskExists(TaskError, status=StatusCode.ALREADY_EXISTS):
    """The task name is taken by a task with another spec."""


class ExecutionExists(TaskError, status=StatusCode.INVALID_ARGUMENT):
    """The execution id is that of another request, whose execution is kept."""


class ExecutionElsewhere(TaskError, status=StatusCode.UNAVAILABLE):
    """Another worker of the server has the execution, or is about to take it up; nobody but workers is told so.

    `worker` in its metadata is the number of that one.
    """


class JournalFailed(TaskError, status=StatusCode.UNAVAILABLE):
    """The disk did not take what is to be kept: a call, which does not run, or an outcome, which nobody hears yet."""


class TaskBusy(TaskError, status=StatusCode.FAILED_PRECONDITION):
    """The task has executions waiting or running; wait for them, or force."""


class TooManyTasks(TaskError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The number of tasks is at the server's bound."""


class ServerBusy(TaskError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The line in front of the sandboxes is full."""


class BatchTooLarge(TaskError, status=StatusCode.INVALID_ARGUMENT):
    """A batch has more inputs, or inputs or answers of more bytes, than the server takes at once."""


class ReaderStalled(TaskError, status=StatusCode.DEADLINE_EXCEEDED):
    """What a caller was sent has not been read: the rest of what a guest emitted, or an answer on a stream."""


class AccessDenied(SpearError, status=StatusCode.UNAUTHENTICATED):
    """The caller brought no token, or one that the server does not know."""


class InstanceError(SpearError):
    """A sandbox could not be had, by the host's fault."""


class SandboxUnavailable(InstanceError):
    """The engine could not make a sandbox."""


class ServerDraining(InstanceError, status=StatusCode.UNAVAILABLE):
    """The server is shutting down and accepts nothing new."""


class WorkerSilent(InstanceError, status=StatusCode.UNAVAILABLE):
    """A worker of the server that is needed for the answer does not give its own in time."""


class GuestRuntimeError(SpearError):
    """Something is wrong with a runtime, or with what is asked of it (the seed's RuntimeError)."""


class UnknownRuntime(GuestRuntimeError, status=StatusCode.INVALID_ARGUMENT):
    """No runtime of that name is installed."""


class UnlinkableArtifact(GuestRuntimeError, status=StatusCode.FAILED_PRECONDITION):
    """The module imports something that no runtime, or not the one that was asked for, provides.

    `missing` in its metadata says how many imports that are, `hints` for how many of them the message has something
    that comes near.
    """


class ConfigurationError(SpearError, status=StatusCode.INVALID_ARGUMENT):
    """The operator's configuration is wrong; the message names the key."""
