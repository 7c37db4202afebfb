"""The client's connection to one server."""

from __future__ import annotations

import functools
import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from spear_wasm.addresses import is_loopback
from spear_wasm.client.answers import Answer, answers_from
from spear_wasm.client.errors import errors_of
from spear_wasm.client.invocations import Invocation, answers_to
from spear_wasm.client.requests import (
    Arguments,
    Progress,
    call_request,
    parameters_of,
    upload_parts,
)
from spear_wasm.client.result import CallResult, GuestFailure, result_from, result_of
from spear_wasm.client.security import Tls, authorization
from spear_wasm.client.stream import CallStream
from spear_wasm.client.stubs import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.client.terms import CallTerms, TaskTerms
from spear_wasm.client.values import Argument
from spear_wasm.errors import ConfigurationError, ExecutionNotFound, TaskNotFound
from spear_wasm.model import ExecutionStatus

DEFAULT_ADDRESS: Final = "127.0.0.1:50052"

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # Notices within minutes that the server's machine is gone. More often would not be polite: servers
    # hang up on connections that ping without need.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A server that was restarted is found again soon, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy for web pages is no way to a function server, least of all to one on this machine.
    ("grpc.enable_http_proxy", 0),
)


class Client:
    """A connection to one server; safe to share between threads, closed by `close` or the end of a `with`.

    The first request connects. Where nobody answers, it fails with ServerUnreachable, and a later one tries
    again.

    Args:
        address: `HOST:PORT`, or any other target that gRPC knows.
        timeout: seconds that the server may take to answer a question. Around a call's own `timeout` it is
            what may go by for connecting and for preparing the task. Calls without a timeout of their own
            end with their task's budget, and uploads when the server has had enough.
        tls: how to speak TLS; True for the authorities that gRPC comes with. False: in the clear.
        token: one that the server knows. It is sent in the clear to this machine only.

    Raises:
        ConfigurationError: a file of `tls` cannot be read, or the token must not be sent.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        timeout: float = 60.0,
        *,
        tls: Tls | bool = False,
        token: str = "",
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._metadata = authorization(token)
        if token and not tls and not (is_loopback(address) or address.startswith("unix:")):
            raise ConfigurationError(f"the token would be sent to {address} in the clear; use TLS")
        self._channel = _channel_to(address, Tls() if tls is True else tls or None)
        self._artifacts = artifact_pb2_grpc.ArtifactServiceStub(self._channel)
        self._functions = function_pb2_grpc.FunctionServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and what runs on it. Closing twice is fine."""
        self._channel.close()

    # --- artifacts ------------------------------------------------------------------------------------

    def upload(
        self,
        source: str | Path | bytes,
        *,
        name: str,
        version: str = "",
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> artifact_pb2.UploadArtifactResponse:
        """Stores a module under a name; the answer's `created` is False where its bytes were there already.

        Args:
            source: a file's path, read twice and never whole, or the module's bytes.
            name: what calls refer to.
            version: empty for the first 12 hex digits of the digest.
            labels: the caller's own, kept and given back.
            progress: called after every chunk.

        Raises:
            SpearError: InvalidArtifact, VersionExists and other classes of the artifact family.
            OSError: the file cannot be read.
        """

        def opened() -> io.BufferedIOBase:
            return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")

        with opened() as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, io.SEEK_END)
        header = artifact_pb2.UploadArtifactHeader(
            name=name, version=version, checksum=f"sha256:{digest}", size_bytes=size, labels=labels
        )
        with errors_of(self._address):
            return self._artifacts.UploadArtifact(
                upload_parts(header, opened, progress), metadata=self._metadata
            )

    def artifacts(self, prefix: str = "") -> Iterator[artifact_pb2.ArtifactInfo]:
        """Artifacts whose names begin with `prefix`, in order of creation, fetched page by page."""
        request = artifact_pb2.ListArtifactsRequest(prefix=prefix)
        while True:
            page = self._ask(self._artifacts.ListArtifacts, request)
            yield from page.artifacts
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def artifact(self, reference: str) -> artifact_pb2.ArtifactInfo:
        """What is known about `name`, `name:version` or `sha256:<hex>`.

        Raises:
            ArtifactNotFound: the server has nothing of that name.
        """
        return self._ask(self._artifacts.GetArtifact, artifact_pb2.GetArtifactRequest(reference=reference))

    def delete_artifact(self, reference: str, *, force: bool = False) -> bool:
        """Removes an artifact; with `force` although tasks refer to it, which then fail.

        Raises:
            ArtifactNotFound: the server has nothing of that name.
            ArtifactInUse: tasks refer to it.
        """
        request = artifact_pb2.DeleteArtifactRequest(reference=reference, force=force)
        return self._ask(self._artifacts.DeleteArtifact, request).deleted

    # --- calls ----------------------------------------------------------------------------------------

    def call(
        self,
        reference: str,
        function: str,
        *args: Argument,
        parameters: Mapping[str, Argument] | None = None,
        check: bool = True,
        **terms: Unpack[TaskTerms],
    ) -> CallResult:
        """Calls a function of an artifact and waits for its end.

        The server makes a task for the artifact at the first call and uses it again from then on.

        Args:
            reference: `name` (its newest upload), `name:version` or `sha256:<hex>`.
            function: what the module exports.
            args: by position. An int may lie in -2^63 to 2^64-1; inside of lists and dicts, one beyond 2^53
                travels as decimal text and bytes as base64 text.
            parameters: by name, after those by position.
            check: False returns the result of a guest that failed, too.
            terms: `timeout`, `limits`, `environment`, `max_retries`, `runtime_config`, `task_name`; see `TaskTerms`.

        Raises:
            GuestFailure: the guest failed, and `check` is set.
            SpearError: the call was not carried out.
        """
        request = self._request(Invocation(reference, function, args, parameters, **terms))
        return self._invoke(request, terms.get("timeout"), check=check)

    def call_task(
        self,
        task: str,
        function: str,
        *args: Argument,
        parameters: Mapping[str, Argument] | None = None,
        check: bool = True,
        **terms: Unpack[CallTerms],
    ) -> CallResult:
        """Calls a function of a task that exists, named by its id or name; otherwise the same as `call`.

        Raises:
            TaskNotFound: there is no such task.
        """
        request = call_request(function, args, parameters, **terms)
        request.invocation_type = function_pb2.INVOCATION_TYPE_EXISTING_TASK
        request.task_id = task
        return self._invoke(request, terms.get("timeout"), check=check)

    def stream(
        self,
        reference: str,
        function: str,
        *args: Argument,
        parameters: Mapping[str, Argument] | None = None,
        key: str = "",
        check: bool = True,
        **terms: Unpack[TaskTerms],
    ) -> CallStream:
        """Calls a function of an artifact; what it emits comes while it runs, and its result at the end.

            with client.stream("reports", "make", "2026") as messages:
                for message in messages:
                    sys.stdout.buffer.write(message)
            print(messages.result.value)

        A guest whose messages are not read waits for that, within its time, and is not retried once it has emitted
        anything. Closing the stream ends the guest.

        Args:
            reference: as for `call`, like all that is not told of here.
            function: what the module exports.
            args: by position.
            parameters: by name, after those by position.
            key: becomes the execution's id. The same call with the same key is made once; who makes it again gets no
                messages, for they are not kept, but its result.
            check: False ends the messages of a guest that failed without an error.
            terms: see `TaskTerms`.

        Raises:
            GuestFailure, SpearError: by the messages, see `CallStream`.
        """
        request = self._request(Invocation(reference, function, args, parameters, **terms, key=key))
        request.execution_mode = function_pb2.EXECUTION_MODE_STREAM
        return CallStream(
            self._functions.StreamFunction(
                request, timeout=self._deadline(terms.get("timeout")), metadata=self._metadata
            ),
            self._address,
            check=check,
        )

    def batch(
        self, reference: str, function: str, inputs: Iterable[Arguments], **terms: Unpack[TaskTerms]
    ) -> list[Answer]:
        """Calls a function once for each input, all in one request; the answers are in the order of the inputs.

            for answer in client.batch("calc", "add", [(1, 2), (3, 4)]):
                print(answer.value)

        What fails, or does not fit the function, does so alone.

        Args:
            reference: as for `call`.
            function: what the module exports.
            inputs: each a call's arguments, by position or by name.
            terms: see `TaskTerms`. They are each call's own: its time runs from its admission.

        Raises:
            BatchTooLarge: the server takes fewer inputs, or smaller ones, at once.
            SpearError: none of the calls was carried out.
        """
        request = function_pb2.InvokeBatchRequest(
            call=self._request(Invocation(reference, function, **terms)),
            inputs=[function_pb2.BatchInput(parameters=parameters_of(each)) for each in inputs],
        )
        with errors_of(self._address):
            response = self._functions.InvokeBatch(request, metadata=self._metadata)
        return answers_from(response, len(request.inputs))

    def invoke_stream(self, invocations: Iterable[Invocation]) -> Iterator[tuple[Invocation, Answer]]:
        """Makes many calls at once, of any functions; each comes back with its answer when it has ended.

            pages = (Invocation("pdf", "render", (number,)) for number in range(1000))
            for page, answer in client.invoke_stream(pages):
                show(page.args, answer.value)

        Invocations are taken as fast as the server reads them, on a thread of the transport's; the server reads on as
        answers are taken. Closing the iterator hangs up, which ends what runs. Where invocations have a
        `runtime_config`, which artifact a reference means is asked once, and holds for all of the stream.

        Raises:
            SpearError: the stream broke; what has become of calls without an answer is not known.
            Exception: whatever iterating over the invocations raised.
        """
        version_of = functools.cache(self._version_of)
        return answers_to(
            invocations,
            lambda invocation: invocation.request(version_of),
            lambda requests: self._functions.InvokeStream(requests, metadata=self._metadata),
            self._address,
        )

    def submit(
        self,
        reference: str,
        function: str,
        *args: Argument,
        parameters: Mapping[str, Argument] | None = None,
        key: str = "",
        **terms: Unpack[TaskTerms],
    ) -> str:
        """Hands in a call to be run whatever becomes of this connection; returns its execution's id at once.

        The server keeps it on disk. `wait` and `execution` tell how it ends.

        Args:
            reference: as for `call`, like all that is not told of here.
            function: what the module exports.
            args: by position.
            parameters: by name, after those by position.
            key: becomes the execution's id. Handing in the same with the same key is done once.
            terms: see `TaskTerms`.

        Raises:
            ExecutionExists: another call has the key.
            SpearError: the call was not accepted.
        """
        request = self._request(Invocation(reference, function, args, parameters, **terms, key=key))
        request.execution_mode = function_pb2.EXECUTION_MODE_ASYNC
        return self._ask(self._functions.InvokeFunction, request).execution_id

    # --- executions -----------------------------------------------------------------------------------

    def execution(self, execution_id: str) -> CallResult:
        """How an execution is, or how it ended, with its result.

        Raises:
            ExecutionNotFound: the server never had it, or keeps no record of it any more.
        """
        request = function_pb2.GetExecutionStatusRequest(execution_id=execution_id, include_result=True)
        answer = self._ask(self._functions.GetExecutionStatus, request)
        if not answer.found:
            message = answer.message or f"there is no execution {execution_id!r}"
            raise ExecutionNotFound(message, execution_id=execution_id)
        return result_from(answer.result, execution_id)

    def wait(
        self,
        execution_id: str,
        *,
        check: bool = True,
        progress: Callable[[CallResult], None] | None = None,
    ) -> CallResult:
        """Returns when an execution has ended, with its result. The server is asked again and again.

        `progress` is called with how it is each time that it has not ended.

        Raises:
            GuestFailure: the guest failed, and `check` is set.
            ExecutionNotFound: the server never had it, or keeps no record of it any more.
        """
        pause = _FIRST_PAUSE
        while not (result := self.execution(execution_id)).ended:
            if progress is not None:
                progress(result)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if check and not result.ok:
            raise GuestFailure(result)
        return result

    def follow_log(self, execution_id: str) -> Iterator[bytes]:
        """What an execution has logged, and what it logs while it runs, in pieces as they come; ends when it has.

        An attempt that follows one that failed logs from the beginning again.

        Raises:
            ExecutionNotFound: the server never had it, or keeps no record of it any more.
            ServerDraining: the server shuts down; the execution goes on when it is back.
        """
        request = function_pb2.FollowLogRequest(execution_id=execution_id)
        with errors_of(self._address):
            parts = self._functions.FollowLog(request, metadata=self._metadata)
            try:
                for part in parts:
                    yield part.content
            finally:
                parts.cancel()

    def executions(
        self, task: str = "", status: ExecutionStatus | None = None
    ) -> Iterator[function_pb2.ExecutionInfo]:
        """Executions, of a task or of all, in order of creation, fetched page by page.

        Raises:
            TaskNotFound: there is no such task.
        """
        request = function_pb2.ListExecutionsRequest(task_id=task)
        if status is not None:
            request.status_filter = function_pb2.ExecutionStatus.Value(f"EXECUTION_STATUS_{status.value}")
        while True:
            page = self._ask(self._functions.ListExecutions, request)
            yield from page.executions
            if not page.has_more:
                return
            request.start_after = page.next_start_after

    def cancel(
        self, execution_id: str, reason: str = "", *, force: bool = False
    ) -> function_pb2.CancelExecutionResponse:
        """Ends an execution; the answer's `success` is False where it had ended before.

        Args:
            execution_id: which.
            reason: goes into its error message.
            force: do not wait until its guest is stopped.

        Raises:
            ExecutionNotFound: the server never had it, or keeps no record of it any more.
        """
        request = function_pb2.CancelExecutionRequest(execution_id=execution_id, reason=reason, force=force)
        return self._ask(self._functions.CancelExecution, request)

    # --- tasks and the service ------------------------------------------------------------------------

    def tasks(self, prefix: str = "") -> Iterator[function_pb2.TaskInfo]:
        """Tasks whose names begin with `prefix`, in order of creation, fetched page by page."""
        request = function_pb2.ListTasksRequest(prefix=prefix, include_details=True)
        while True:
            page = self._ask(self._functions.ListTasks, request)
            yield from page.tasks
            if not page.has_more:
                return
            request.start_after = page.next_start_after

    def task(self, task: str) -> function_pb2.TaskInfo:
        """What is known about a task.

        Raises:
            TaskNotFound: there is no such task.
        """
        answer = self._ask(self._functions.GetTask, function_pb2.GetTaskRequest(task_id=task))
        if not answer.found:
            raise TaskNotFound(answer.message or f"there is no task {task!r}", task=task)
        return answer.task

    def delete_task(self, task: str, *, force: bool = False) -> bool:
        """Removes a task; with `force` its running executions end.

        Raises:
            TaskNotFound: there is no such task.
            TaskBusy: it has executions that wait or run.
        """
        request = function_pb2.DeleteTaskRequest(task_id=task, force=force)
        return self._ask(self._functions.DeleteTask, request).deleted

    def health(self) -> function_pb2.GetHealthResponse:
        """Whether the server is fit for work, with details."""
        return self._ask(self._functions.GetHealth, function_pb2.GetHealthRequest(include_details=True))

    def stats(self) -> function_pb2.GetStatsResponse:
        """What the server has done so far."""
        request = function_pb2.GetStatsRequest(include_task_stats=True, include_execution_stats=True)
        return self._ask(self._functions.GetStats, request)

    # --- the wire -------------------------------------------------------------------------------------

    def _request(self, invocation: Invocation) -> function_pb2.InvokeFunctionRequest:
        return invocation.request(self._version_of)

    def _version_of(self, reference: str) -> str:
        return self.artifact(reference).version

    def _invoke(
        self, request: function_pb2.InvokeFunctionRequest, timeout: float | None, *, check: bool
    ) -> CallResult:
        with errors_of(self._address):
            answer = self._functions.InvokeFunction(
                request, timeout=self._deadline(timeout), metadata=self._metadata
            )
        result = result_of(answer)
        if check and not result.ok:
            raise GuestFailure(result)
        return result

    def _deadline(self, timeout: float | None) -> float | None:
        # The server stops the guest at its timeout and answers what it cost. A deadline of the same length
        # would throw that answer away.
        return None if timeout is None else timeout + self._timeout

    def _ask(self, method: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request) -> _Response:
        with errors_of(self._address):
            return method(request, timeout=self._timeout, metadata=self._metadata)


def _channel_to(address: str, tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(address, tls.credentials(), options=[*_CHANNEL_OPTIONS, *named])
