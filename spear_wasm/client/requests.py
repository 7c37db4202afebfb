"""What a client's arguments are on the wire."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TypeAlias

from spear_wasm.client.stubs import artifact_pb2, function_pb2
from spear_wasm.client.values import Argument, encode, struct_of
from spear_wasm.errors import InvalidRequest
from spear_wasm.limits import ResourceLimits

Progress: TypeAlias = Callable[[int, int], None]
"""Hears of an upload's bytes sent and bytes in all, on a thread of the transport's."""

Arguments: TypeAlias = "Sequence[Argument] | Mapping[str, Argument]"
"""A call's arguments, by position or by name."""

_CHUNK_BYTES = 128 << 10


def upload_parts(
    header: artifact_pb2.UploadArtifactHeader,
    opened: Callable[[], io.BufferedIOBase],
    progress: Progress | None,
) -> Iterator[artifact_pb2.UploadArtifactRequest]:
    """The header of an upload, then the bytes of what `opened` opens."""
    # The file is this generator's own: the transport may still be reading when the call has failed.
    yield artifact_pb2.UploadArtifactRequest(header=header)
    with opened() as stream:
        sent = 0
        while chunk := stream.read(_CHUNK_BYTES):
            yield artifact_pb2.UploadArtifactRequest(chunk=chunk)
            sent += len(chunk)
            if progress is not None:
                progress(sent, header.size_bytes)


def artifact_spec(
    reference: str, runtime_config: Mapping[str, Argument] | None = None
) -> function_pb2.ArtifactSpec:
    """The spec of the artifact that `name`, `name:version` or `sha256:<hex>` means.

    Raises:
        TypeError: the config holds something that cannot travel.
    """
    name, _, version = (reference, "", "") if reference.startswith("sha256:") else reference.partition(":")
    config = struct_of(runtime_config) if runtime_config else None
    return function_pb2.ArtifactSpec(artifact_id=name, version=version, runtime_config=config)


def name_task(request: function_pb2.InvokeFunctionRequest, version_of: Callable[[str], str]) -> None:
    """Name the task of a request that has a runtime_config and no name: one task for each artifact and config.

    The name that a server chooses would be that of the artifact's usual task. `version_of` asks it which is meant.
    """
    spec = request.artifact_spec
    if request.task_name or not spec.runtime_config.fields:
        return
    version = version_of(f"{spec.artifact_id}:{spec.version}".rstrip(":"))
    if not spec.artifact_id.startswith("sha256:"):
        spec.version = version
    terms = hashlib.sha256(spec.runtime_config.SerializeToString(deterministic=True)).hexdigest()
    request.task_name = f"{spec.artifact_id}:{version}#{terms[:12]}"


def call_request(
    function: str,
    args: Sequence[Argument],
    parameters: Mapping[str, Argument] | None,
    *,
    timeout: float | None = None,
    limits: ResourceLimits | None = None,
    environment: Mapping[str, str] | None = None,
    max_retries: int = 0,
) -> function_pb2.InvokeFunctionRequest:
    """A call of a function, of whatever task; `timeout` in seconds, None for the task's own.

    Raises:
        InvalidRequest: the timeout is none.
    """
    return function_pb2.InvokeFunctionRequest(
        function_name=function,
        parameters=[*parameters_of(args), *parameters_of(parameters or {})],
        execution_mode=function_pb2.EXECUTION_MODE_SYNC,
        context=function_pb2.ExecutionContext(
            timeout_ms=_milliseconds(timeout), environment=environment, max_retries=max_retries
        ),
        limits=function_pb2.ResourceLimits(**asdict(limits)) if limits else None,
    )


def parameters_of(arguments: Arguments) -> list[function_pb2.FunctionParameter]:
    """What carries arguments.

    Raises:
        InvalidRequest: an int does not fit in 64 bits.
        TypeError: a value cannot travel.
    """
    if isinstance(arguments, Mapping):
        return [
            function_pb2.FunctionParameter(name=name, value=encode(value))
            for name, value in arguments.items()
        ]
    return [function_pb2.FunctionParameter(value=encode(value)) for value in arguments]


def _milliseconds(timeout: float | None) -> int:
    if timeout is None:
        return 0
    if not 0 < timeout < math.inf:
        raise InvalidRequest(f"a timeout of {timeout} seconds is none; it must be positive")
    return math.ceil(timeout * 1000)
