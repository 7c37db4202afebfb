"""Messages to our values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format, timestamp_pb2

from spear_wasm.api import artifact_pb2, function_pb2
from spear_wasm.artifacts.references import digest_reference
from spear_wasm.errors import InvalidRequest
from spear_wasm.execution.task import ArtifactSpec
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionStatus, Field, Parameter
from spear_wasm.rpc.values import decode_any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spear_wasm.artifacts.store import StoredArtifact
    from spear_wasm.execution.task import Task
    from spear_wasm.model import Signature

STATUS_OF: dict[ExecutionStatus | None, function_pb2.ExecutionStatus.ValueType] = {
    status: function_pb2.ExecutionStatus.Value(f"EXECUTION_STATUS_{status.value}")
    for status in ExecutionStatus
}
LIMIT_NAMES = tuple(field.name for field in function_pb2.ResourceLimits.DESCRIPTOR.fields)
INT32_MAX = 2**31 - 1
MAX_PARAMETERS = 1000
"""As many as a function of WebAssembly can have; each takes microseconds to read."""


def saturated(count: int) -> int:
    """A counter for an int32 field."""
    return min(count, INT32_MAX)


def limits_from(message: function_pb2.ResourceLimits) -> ResourceLimits:
    """Limits as the caller asks for them."""
    return ResourceLimits(**{name: getattr(message, name) for name in LIMIT_NAMES})


def spec_from(message: function_pb2.ArtifactSpec) -> ArtifactSpec:
    """An artifact spec as the caller gave it."""
    return ArtifactSpec(
        artifact_id=message.artifact_id,
        artifact_type=message.artifact_type,
        location=message.location,
        version=message.version,
        checksum=message.checksum,
        metadata=dict(message.metadata),
        description=message.description,
        environment=dict(message.environment),
        runtime_config=json_format.MessageToDict(message.runtime_config),
        resource_limits=limits_from(message.resource_limits),
        max_execution_timeout_ms=message.max_execution_timeout_ms,
        invocation_type=message.invocation_type,
    )


def spec_to(spec: ArtifactSpec) -> function_pb2.ArtifactSpec:
    """The same for an answer."""
    message = function_pb2.ArtifactSpec(
        artifact_id=spec.artifact_id,
        artifact_type=spec.artifact_type,
        location=spec.location,
        version=spec.version,
        checksum=spec.checksum,
        metadata=spec.metadata,
        description=spec.description,
        environment=spec.environment,
        max_execution_timeout_ms=spec.max_execution_timeout_ms,
        invocation_type=function_pb2.InvocationType.ValueType(spec.invocation_type),
    )
    if spec.resource_limits:
        asked = spec.resource_limits
        message.resource_limits.CopyFrom(
            function_pb2.ResourceLimits(**{name: getattr(asked, name) for name in LIMIT_NAMES})
        )
    if spec.runtime_config:
        json_format.ParseDict(spec.runtime_config, message.runtime_config)
    return message


def parameters_from(messages: Sequence[function_pb2.FunctionParameter]) -> list[Parameter]:
    """A call's parameters. Raises InvalidRequest for a value that cannot be read, or too many of them."""
    if len(messages) > MAX_PARAMETERS:
        raise InvalidRequest(f"there are {len(messages)} parameters; a call may have {MAX_PARAMETERS}")
    return [
        Parameter(decode_any(message.value, f"parameter {number}"), message.name, message.type)
        for number, message in enumerate(messages, 1)
    ]


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """A time since the epoch."""
    if seconds is None:
        return None
    message = timestamp_pb2.Timestamp()
    write_time(message, seconds)
    return message


def write_time(message: timestamp_pb2.Timestamp, seconds: float | None) -> None:
    """The same, into a message; nothing where there is no time to tell."""
    if seconds is not None:
        message.seconds = whole = int(seconds)
        message.nanos = int((seconds - whole) * 1e9)


def task_info(task: Task, *, details: bool) -> function_pb2.TaskInfo:
    """A task for lists; its spec and labels only with `details`."""
    message = function_pb2.TaskInfo(
        task_id=task.id,
        task_name=task.name,
        created_at=task.record.created_at,
        updated_at=task.updated_at,
        execution_count=saturated(task.executions),
        last_status=STATUS_OF.get(task.last_status, function_pb2.EXECUTION_STATUS_UNKNOWN),
        running_executions=task.holding.places,
        pending_executions=task.waiting,
    )
    if details:
        message.artifact_spec.CopyFrom(spec_to(task.record.spec))
        message.metadata.update(task.record.spec.metadata)
    return message


def artifact_info(
    artifact: StoredArtifact, runtime: str, signatures: Sequence[Signature], *, most_bytes: int
) -> artifact_pb2.ArtifactInfo:
    """An artifact for answers. Its functions and imports end where the message would exceed `most_bytes`."""
    message = artifact_pb2.ArtifactInfo(
        digest=digest_reference(artifact.digest),
        name=artifact.name,
        version=artifact.version,
        size_bytes=artifact.size_bytes,
        runtime_type=runtime,
        created_at=timestamp(artifact.created_at / 1000),
        labels=artifact.labels,
        compile_time_ms=artifact.compile_time_ms,
    )
    room = most_bytes - message.ByteSize()
    for signature in signatures:
        described = artifact_pb2.FunctionSignature(
            name=signature.name, params=_fields(signature.params), results=_fields(signature.results)
        )
        room -= described.ByteSize() + 8
        if room < 0:
            return message
        message.functions.append(described)
    for needed in artifact.module.imports:
        imported = artifact_pb2.ImportInfo(module=needed.module, name=needed.name, type=needed.type)
        room -= imported.ByteSize() + 8
        if room < 0:
            return message
        message.imports.append(imported)
    return message


def _fields(fields: Iterable[Field]) -> list[artifact_pb2.ValueField]:
    return [artifact_pb2.ValueField(name=field.name, type=field.type) for field in fields]
