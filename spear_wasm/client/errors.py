"""What a failed request becomes: the class that the server raised, or what can be said without its word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from spear_wasm.client.stubs import function_pb2
from spear_wasm.errors import SpearError, StatusCode

_DOMAIN = "spear-wasm"
_CODES = {str(code.value[0]): code for code in grpc.StatusCode}
MAX_DIGITS = 10
"""Of a number in a text."""


class RemoteError(SpearError):
    """The server or the way to it failed, in words that are not ours.

    Attributes:
        code: the gRPC status code that the request ended with.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        retry_after: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message, retry_after=retry_after, **metadata)
        self.code = code


class ServerUnreachable(RemoteError, status=StatusCode.UNAVAILABLE):
    """Nobody answers at the address, or the connection broke before the answer came."""


@contextmanager
def errors_of(address: str) -> Iterator[None]:
    """Turns what gRPC raises inside into errors of ours."""
    try:
        yield
    except grpc.RpcError as error:
        # In the synchronous API, what a stub raises is the ended call itself.
        raise _error_of(cast("grpc.Call", error), address) from error


def _error_of(call: grpc.Call, address: str) -> SpearError:
    code, message = call.code(), call.details() or ""
    info, retry_after = _server_words(call)
    if info is None and code is grpc.StatusCode.UNAVAILABLE:
        return ServerUnreachable(f"no server answers at {address} ({message.rpartition(': ')[2]})", code=code)
    if info is None:
        return _unnamed(message, code, retry_after)
    return _named(info.reason, dict(info.metadata), message, code, retry_after)


def refusal_from(answer: function_pb2.InvokeFunctionResponse) -> SpearError:
    """The error that the answer to one of many calls tells of."""
    facts = dict(answer.result.metrics)
    code = _CODES.get(facts.pop("grpc_status", ""), grpc.StatusCode.UNKNOWN)
    wait_ms = number_in(facts.pop("retry_after_ms", ""))
    retry_after = None if wait_ms is None else wait_ms / 1000
    return _named(answer.result.error_code, facts, answer.result.error_message, code, retry_after)


def number_in(text: str) -> int | None:
    """The number that a foreign text is; None where it is none, or of more digits than make sense."""
    return int(text) if text.isdecimal() and len(text) < MAX_DIGITS else None


def _named(
    reason: str, metadata: dict[str, str], message: str, code: grpc.StatusCode, retry_after: float | None
) -> SpearError:
    kind = SpearError.by_reason.get(reason)
    if kind is None or issubclass(kind, RemoteError):
        error = _unnamed(message, code, retry_after)
    else:
        error = kind(message, retry_after=retry_after)
    error.metadata = metadata
    return error


def _unnamed(message: str, code: grpc.StatusCode, retry_after: float | None) -> SpearError:
    return RemoteError(message or f"the server answered {code.name}", code=code, retry_after=retry_after)


def _server_words(call: grpc.Call) -> tuple[ErrorInfo | None, float | None]:
    """What our server says about the error, and after how many seconds any server wants to be asked again."""
    info: ErrorInfo | None = None
    retry_after: float | None = None
    for detail in _details(call):
        said, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(said) and said.domain == _DOMAIN:
            info = said
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return info, retry_after


def _details(call: grpc.Call) -> Sequence[AnyMessage]:
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):
        return ()  # the details contradict the status, or are rubbish; code and message still stand
    return status.details if status is not None else ()
