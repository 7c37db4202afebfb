"""A method of a service, as the edge needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from spear_wasm.rpc.edge.unary_call import UnaryCall

if TYPE_CHECKING:
    import grpc

AnswerAtOnce: TypeAlias = "Callable[[Any, UnaryCall], bool]"
"""Takes a request and its call. Whether it answers it, now or later; where it does not, a coroutine does."""


@dataclass(frozen=True, slots=True)
class Method:
    """How the messages of a method are read and written, and what answers it.

    `answer` is a service's coroutine function, or its asynchronous generator function, of what was asked and the
    conversation. `at_once`, where there is one, is tried first, on the polling thread.
    """

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    answer: Callable[[Any, Any], Any]
    takes_stream: bool
    gives_stream: bool
    at_once: AnswerAtOnce | None


def method_of(handler: grpc.RpcMethodHandler[Any, Any], at_once: AnswerAtOnce | None) -> Method:
    """What generated code says of a method."""
    answer = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return Method(
        cast("Callable[[bytes], Any]", handler.request_deserializer),
        cast("Callable[[Any], bytes]", handler.response_serializer),
        cast("Callable[[Any, Any], Any]", answer),
        handler.request_streaming,
        handler.response_streaming,
        at_once,
    )
