"""What a guest emits, as its caller gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

from spear_wasm.client.errors import RemoteError, errors_of
from spear_wasm.client.result import CallResult, GuestFailure, result_from
from spear_wasm.client.stubs import function_pb2
from spear_wasm.client.values import decode


class _Call(Protocol):
    """A streamed call of gRPC's."""

    def __next__(self) -> function_pb2.StreamExecutionResult: ...

    def cancel(self) -> object: ...


class CallStream(Iterator[bytes]):
    """The messages of a call, in the order in which its guest emits them; for one thread at a time.

    A message is what the guest emitted in one go; one that is larger than the server's `max_unread` comes in
    pieces. After the last one `result` tells how the call ended.

    Iterating raises GuestFailure at the end where the guest failed and `check` was set, and SpearError where the
    call was not carried out.
    """

    def __init__(self, call: _Call, address: str, *, check: bool) -> None:
        self._call = call
        self._address = address
        self._check = check
        self._execution_id = ""
        self._result: CallResult | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up, which ends the guest; there are no more messages then, and no result. Twice is fine."""
        self._closed = True
        self._call.cancel()

    @property
    def execution_id(self) -> str:
        """Names the execution; empty before the first message."""
        return self._execution_id

    @property
    def result(self) -> CallResult:
        """How the call ended.

        Raises:
            RuntimeError: there are messages left to read, or the stream was closed before its end.
        """
        if self._result is None:
            raise RuntimeError("the result comes after the last message; read them all first")
        return self._result

    def __next__(self) -> bytes:
        if self._closed or self._result is not None:
            raise StopIteration
        message = self._receive()
        self._execution_id = message.execution_id
        if not message.is_final:
            return _content_of(message)
        self._result = _result_of(message)
        if self._check and not self._result.ok:
            raise GuestFailure(self._result)
        raise StopIteration

    def _receive(self) -> function_pb2.StreamExecutionResult:
        try:
            with errors_of(self._address):
                return next(self._call)
        except StopIteration:
            raise RemoteError("the server ended the stream without saying how the call ended") from None
        except RemoteError:
            if self._closed:  # by another thread, while this one waited
                raise StopIteration from None
            raise


def _content_of(message: function_pb2.StreamExecutionResult) -> bytes:
    try:
        content = decode(message.chunk_data)
    except ValueError as error:
        raise RemoteError(f"the server sent {error}") from error
    if not isinstance(content, bytes):
        raise RemoteError(f"the server sent a message that is no bytes, but {type(content).__name__}")
    return content


def _result_of(message: function_pb2.StreamExecutionResult) -> CallResult:
    result = message.result
    result.result.CopyFrom(message.chunk_data)
    return result_from(
        result, message.execution_id, message.metadata["task_id"], message.metadata["instance_id"]
    )
