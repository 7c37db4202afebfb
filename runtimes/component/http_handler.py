"""Components that export wasi:http/incoming-handler, called with a request and answering with a response."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import cast

import msgspec

from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.outcome import GuestError, GuestFault
from spear_wasm.limits import Limits
from spear_wasm.model import ErrorCode, Field, Parameter, Signature, TypedValue, ValueType
from spear_wasm.values import refuse_environment_of_call
from spear_wasm.wasi.preview2.guest import guest_of
from spear_wasm.wasi.preview2.http_answering import (
    IncomingRequest,
    OutgoingResponse,
    Request,
    ResponseOutparam,
)
from spear_wasm.wasi.preview2.http_types import ERROR_CODE
from spear_wasm.wit.parsing import parse_type
from spear_wasm.wit.to_json import giver
from spear_wasm.wit.values import Case

from .requests import BODY, REQUEST, read_request, response_document

_ERROR_CODE = giver(parse_type(ERROR_CODE))
HANDLE = "handle"
HANDLER = "wasi:http/incoming-handler"


class HttpHandler:
    """The function `handle`, of whichever version of the interface a component exports."""

    signature = Signature(
        HANDLE,
        (Field(REQUEST, ValueType.JSON), Field(BODY, ValueType.BYTES)),
        (Field("response", ValueType.JSON),),
    )

    def __init__(self, interface: str) -> None:
        self._interface = interface

    def arguments(
        self, parameters: Sequence[Parameter], limits: Limits, environment: Mapping[str, str]
    ) -> Request:
        """The request."""
        refuse_environment_of_call(environment)
        return read_request(parameters, limits)

    def steps(
        self, sandbox: ComponentSandbox, arguments: object
    ) -> Generator[None, None, tuple[TypedValue, ...]]:
        """Have it answered."""
        guest = guest_of(sandbox)
        guest.begin_answer()
        try:
            request = guest.resources.add(IncomingRequest(guest, cast("Request", arguments)))
            outparam = guest.resources.add(ResponseOutparam())
            yield from sandbox.call(self._interface, HANDLE, (request, outparam))
            response = _response(guest.answer)
            return (TypedValue(ValueType.JSON, _document(sandbox, response)),)
        finally:
            guest.end_answer()


def _response(answer: OutgoingResponse | Case | None) -> OutgoingResponse:
    if answer is None:
        raise GuestError("the guest returned without a response")
    if isinstance(answer, Case):
        why = f" ({answer.payload})" if isinstance(answer.payload, str) else ""
        code = TypedValue(ValueType.JSON, msgspec.json.encode(_ERROR_CODE(answer)))
        raise GuestError(f"the guest answers with the error {answer.name}{why}", (code,))
    if not answer.is_complete:
        raise GuestError(
            f"the guest returned before the body of its response, of status {answer.status}, was finished"
        )
    return answer


def _document(sandbox: ComponentSandbox, response: OutgoingResponse) -> bytes:
    # Who reads along has had the body.
    body = sandbox.output if sandbox.reader is None else None
    headers = response.fields.entries
    if sum(len(name) + len(value) for name, value in headers) > sandbox.output_room:
        raise GuestFault(
            ErrorCode.OUTPUT_LIMIT,
            f"the headers and the body of the response are more than the limit of {sandbox.limits.max_output_bytes} "
            "bytes",
        )
    return response_document(response.status, headers, body)
