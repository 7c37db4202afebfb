"""Many calls on one stream: what is sent, and what comes back for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from spear_wasm.client.answers import Answer, answer_from
from spear_wasm.client.errors import RemoteError, errors_of
from spear_wasm.client.requests import artifact_spec, call_request, name_task
from spear_wasm.client.stubs import function_pb2
from spear_wasm.client.values import Argument
from spear_wasm.limits import ResourceLimits


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call, one of many on a stream; what its fields mean is told at `Client.call` and `TaskTerms`.

    Attributes:
        key: becomes the execution's id; the same call with the same key is made once. Empty: it has none.
    """

    reference: str
    function: str
    args: Sequence[Argument] = ()
    parameters: Mapping[str, Argument] | None = None
    timeout: float | None = None
    limits: ResourceLimits | None = None
    environment: Mapping[str, str] | None = None
    max_retries: int = 0
    runtime_config: Mapping[str, Argument] | None = None
    task_name: str = ""
    key: str = ""

    def request(self, version_of: Callable[[str], str]) -> function_pb2.InvokeFunctionRequest:
        """The message that asks for it. `version_of` asks the server, which has to tell it for some.

        Raises:
            InvalidRequest, TypeError: it cannot travel.
            SpearError: the server did not tell.
        """
        request = call_request(
            self.function, self.args, self.parameters,
            timeout=self.timeout, limits=self.limits, environment=self.environment, max_retries=self.max_retries,
        )  # fmt: skip
        request.invocation_type = function_pb2.INVOCATION_TYPE_NEW_TASK
        request.artifact_spec.CopyFrom(artifact_spec(self.reference, self.runtime_config))
        request.task_name = self.task_name
        if self.key:
            request.execution_id = self.key
        name_task(request, version_of)
        return request


class _Stream(Protocol):
    """A stream of gRPC's."""

    def __next__(self) -> function_pb2.InvokeFunctionResponse: ...

    def cancel(self) -> object: ...


class _Open:
    """Invocations that have been sent and not answered, by their numbers.

    `requests` is iterated by a thread of the transport's, and all else is for the one that reads the answers. `error`
    is what ended the iteration, where it did not come to its end.
    """

    def __init__(
        self,
        invocations: Iterable[Invocation],
        request_of: Callable[[Invocation], function_pb2.InvokeFunctionRequest],
    ) -> None:
        self._invocations = invocations
        self._request_of = request_of
        self._sent: dict[int, Invocation] = {}
        self.error: Exception | None = None

    def requests(self) -> Iterator[function_pb2.InvokeFunctionRequest]:
        try:
            for number, invocation in enumerate(self._invocations, 1):
                self._sent[number] = invocation
                yield self._request_of(invocation)
        except Exception as error:
            self.error = error
            raise

    def take(self, number: int) -> Invocation:
        invocation = self._sent.pop(number, None)
        if invocation is None:
            raise RemoteError(f"the server answered request {number}, which is not open")
        return invocation

    def check_answered(self) -> None:
        if self._sent:
            raise RemoteError(
                f"the server ended the stream and left {len(self._sent)} calls without an answer"
            )


def answers_to(
    invocations: Iterable[Invocation],
    request_of: Callable[[Invocation], function_pb2.InvokeFunctionRequest],
    send: Callable[[Iterator[function_pb2.InvokeFunctionRequest]], _Stream],
    address: str,
) -> Iterator[tuple[Invocation, Answer]]:
    """Each invocation with its answer, when it comes; `request_of` says what to ask for, `send` begins the stream.

    Raises:
        SpearError: the stream broke.
        Exception: whatever iterating over the invocations raised.
    """
    still_open = _Open(invocations, request_of)
    stream = send(still_open.requests())
    try:
        while (answer := _next(stream, still_open, address)) is not None:
            yield still_open.take(answer.request_number), answer_from(answer)
        still_open.check_answered()
    finally:
        stream.cancel()


def _next(stream: _Stream, still_open: _Open, address: str) -> function_pb2.InvokeFunctionResponse | None:
    try:
        with errors_of(address):
            return next(stream)
    except StopIteration:
        return None
    except RemoteError:
        if still_open.error is not None:  # that is what broke it
            raise still_open.error from None
        raise
