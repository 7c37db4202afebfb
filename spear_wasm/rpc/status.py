"""Our errors as gRPC statuses, with details that programs can read."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from spear_wasm.errors import SpearError, StatusCode

log = structlog.get_logger()

DOMAIN = "spear-wasm"
MAX_MESSAGE_CHARS = 1000
MAX_METADATA_ENTRIES = 8
MAX_METADATA_CHARS = 200
"""Together these keep a status under 4 KiB, whatever was in the text: gRPC sends it in headers."""

Arguments = ParamSpec("Arguments")
Response = TypeVar("Response")


def status_of(error: SpearError) -> status_pb2.Status:
    """The google.rpc.Status of an error: its message, an ErrorInfo, and a RetryInfo where waiting helps."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.metadata.items())[:MAX_METADATA_ENTRIES]:
        info.metadata[key] = _printable(value, MAX_METADATA_CHARS)
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration(
            nanos=round(error.retry_after % 1 * 1e9), seconds=int(error.retry_after)
        )
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=error.status.value, message=_printable(error.message, MAX_MESSAGE_CHARS), details=details
    )


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _printable(text: str, length: int) -> str:
    """Cut, and with control and non-ASCII characters escaped: a header must survive it, and a terminal."""
    safe = "".join(
        char if " " <= char <= "~" else repr(char)[1:-1].encode("ascii", "backslashreplace").decode()
        for char in text[:length]
    )
    return safe if len(safe) <= length else safe[: length - 1] + "~"


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: SpearError) -> NoReturn:
    """End the RPC with the error's status."""
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort raises")


def reporting_errors(
    method: Callable[Arguments, Awaitable[Response]],
) -> Callable[Arguments, Awaitable[Response]]:
    """Give a service method's errors their statuses. What is not ours is a bug: logged, and INTERNAL."""

    @functools.wraps(method)
    async def reporting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
        try:
            return await method(*args, **kwargs)
        except SpearError as error:
            failed: SpearError = error
            if error.status is StatusCode.INTERNAL:
                log.exception("call failed by our fault", method=method.__name__)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("call failed by a bug", method=method.__name__)
            failed = SpearError("the server failed; the cause is in its log")
        return await abort(args[2], failed)  # type: ignore[arg-type]  # (self, request, context)

    return reporting
