"""Messages to our values and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format, timestamp_pb2

from spear_wasm.api import artifact_pb2, function_pb2
from spear_wasm.execution.task import ArtifactSpec
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ExecutionMode, ExecutionStatus, Field, Parameter
from spear_wasm.rpc.values import decode_any, encode_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spear_wasm.artifacts.store import StoredArtifact
    from spear_wasm.execution.execution import Execution
    from spear_wasm.execution.records import ExecutionRecord
    from spear_wasm.execution.task import Task
    from spear_wasm.model import Signature

STATUS_OF: dict[ExecutionStatus | None, function_pb2.ExecutionStatus.ValueType] = {
    status: function_pb2.ExecutionStatus.Value(f"EXECUTION_STATUS_{status.value}")
    for status in ExecutionStatus
}
LIMIT_NAMES = tuple(field.name for field in function_pb2.ResourceLimits.DESCRIPTOR.fields)
INT32_MAX = 2**31 - 1
MODE_OF = {mode: function_pb2.ExecutionMode.Value(f"EXECUTION_MODE_{mode.value}") for mode in ExecutionMode}
MAX_MESSAGE_CHARS = 200
MAX_NAME_CHARS = 200
"""Guest-chosen names in lists are cut here, so that a page stays small."""


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


def parameters_from(messages: Iterable[function_pb2.FunctionParameter]) -> list[Parameter]:
    """A call's parameters. Raises InvalidRequest for a value that cannot be read."""
    return [
        Parameter(decode_any(message.value, f"parameter {number}"), message.name, message.type)
        for number, message in enumerate(messages, 1)
    ]


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """A time since the epoch."""
    if seconds is None:
        return None
    whole = int(seconds)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def attempts_entry(attempts: int) -> dict[str, str] | None:
    """How often an execution has begun, where that is more than once: an entry for its metrics or metadata."""
    return {"attempts": str(attempts)} if attempts > 1 else None


def invoke_response(execution: Execution) -> function_pb2.InvokeFunctionResponse:
    """The answer to a call whose execution has ended."""
    outcome = execution.outcome
    assert outcome is not None
    success = outcome.status is ExecutionStatus.COMPLETED
    return function_pb2.InvokeFunctionResponse(
        success=success,
        message="" if success else outcome.error_message,
        execution_id=execution.id,
        task_id=execution.task.id,
        instance_id=execution.sandbox_id,
        result=_result(execution),
        status_endpoint=f"executions/{execution.id}",
    )


def _result(execution: Execution) -> function_pb2.ExecutionResult:
    outcome, usage = execution.outcome, execution.usage
    assert outcome is not None
    return function_pb2.ExecutionResult(
        status=STATUS_OF[outcome.status],
        result=encode_results(outcome.values),
        error_message=outcome.error_message,
        error_code=outcome.error_code or "",
        execution_time_ms=round(execution.run_seconds * 1000),
        memory_used_bytes=usage.peak_memory_bytes,
        started_at=timestamp(execution.started_at),
        completed_at=timestamp(execution.completed_at),
        cpu_time_ms=usage.cpu_ns / 1e6,
        fuel_used=usage.fuel or 0,
        queue_time_ms=execution.queue_seconds * 1000,
        stdout=usage.stdout,
        stderr=usage.stderr,
        exit_code=outcome.exit_code,
        trap_frames=outcome.trap_frames,
        output_truncated=usage.output_truncated,
        metrics=attempts_entry(execution.attempts),
    )


def task_info(task: Task, *, details: bool) -> function_pb2.TaskInfo:
    """A task for lists; its spec and labels only with `details`."""
    message = function_pb2.TaskInfo(
        task_id=task.id,
        task_name=task.name,
        created_at=task.record.created_at,
        updated_at=task.updated_at,
        execution_count=saturated(task.executions),
        last_status=STATUS_OF.get(task.last_status, function_pb2.EXECUTION_STATUS_UNKNOWN),
    )
    if details:
        message.artifact_spec.CopyFrom(spec_to(task.record.spec))
        message.metadata.update(task.record.spec.metadata)
    return message


def active_info(execution: Execution) -> function_pb2.ExecutionInfo:
    """An execution that waits or runs."""
    return function_pb2.ExecutionInfo(
        execution_id=execution.id,
        task_id=execution.task.id,
        function_name=execution.function.name[:MAX_NAME_CHARS],
        execution_mode=MODE_OF[execution.mode],
        status=STATUS_OF[execution.status],
        started_at=timestamp(execution.started_at),
        execution_time_ms=round(execution.run_seconds * 1000),
        metadata=attempts_entry(execution.attempts),
    )


def record_info(record: ExecutionRecord) -> function_pb2.ExecutionInfo:
    """An execution that has ended."""
    return function_pb2.ExecutionInfo(
        execution_id=record.execution_id,
        task_id=record.task_id,
        function_name=record.function[:MAX_NAME_CHARS],
        execution_mode=MODE_OF[record.mode],
        status=STATUS_OF[record.status],
        started_at=timestamp(record.started_at),
        completed_at=timestamp(record.completed_at),
        execution_time_ms=round(record.run_seconds * 1000),
        memory_used_bytes=record.usage.peak_memory_bytes,
        error_message=record.outcome.error_message[:MAX_MESSAGE_CHARS],
        metadata=attempts_entry(record.attempts),
    )


def artifact_info(
    artifact: StoredArtifact, runtime: str, signatures: Sequence[Signature], *, most_bytes: int
) -> artifact_pb2.ArtifactInfo:
    """An artifact for answers. Its functions and imports end where the message would exceed `most_bytes`."""
    message = artifact_pb2.ArtifactInfo(
        digest=f"sha256:{artifact.digest}",
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
