"""A method of a service, as the edge needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True)
class Method:
    """How the messages of a method are read and written, and what answers it.

    `answer` is a service's coroutine function, or its asynchronous generator function, of what was asked and the
    conversation.
    """

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    answer: Callable[[Any, Any], Any]
    takes_stream: bool
    gives_stream: bool


def method_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Method:
    """What generated code says of a method."""
    answer = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return Method(
        cast("Callable[[bytes], Any]", handler.request_deserializer),
        cast("Callable[[Any], bytes]", handler.response_serializer),
        cast("Callable[[Any, Any], Any]", answer),
        handler.request_streaming,
        handler.response_streaming,
    )
