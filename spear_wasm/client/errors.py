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

from spear_wasm.errors import SpearError, StatusCode

_DOMAIN = "spear-wasm"


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
    kind = SpearError.by_reason.get(info.reason) if info is not None else None
    error: SpearError
    if kind is None or issubclass(kind, RemoteError):
        error = RemoteError(message or f"the server answered {code.name}", code=code, retry_after=retry_after)
    else:
        error = kind(message, retry_after=retry_after)
    error.metadata = dict(info.metadata) if info is not None else {}
    return error


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
