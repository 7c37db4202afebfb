"""What becomes of each of many calls."""

from __future__ import annotations

from dataclasses import dataclass

from spear_wasm.client.errors import RemoteError, refusal_from
from spear_wasm.client.result import CallResult, GuestFailure, result_of
from spear_wasm.client.stubs import function_pb2
from spear_wasm.errors import SpearError
from spear_wasm.model import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """How one of many calls went: it has a result, or was refused.

    Attributes:
        result: how its execution ended, well or not; None where it was refused.
        refusal: why the server did not carry it out, or cannot tell its result; None where there is one.
    """

    result: CallResult | None
    refusal: SpearError | None

    @property
    def ok(self) -> bool:
        """Whether the guest completed."""
        return self.result is not None and self.result.ok

    @property
    def value(self) -> Json | bytes:
        """What the guest returned.

        Raises:
            GuestFailure: the guest failed.
            SpearError: the call was refused.
        """
        if self.result is None:
            assert self.refusal is not None
            raise self.refusal
        if not self.result.ok:
            raise GuestFailure(self.result)
        return self.result.value


def answer_from(answer: function_pb2.InvokeFunctionResponse) -> Answer:
    """The answer in a server's message.

    Raises:
        RemoteError: it holds a status or a value that we do not know.
    """
    if answer.result.status == function_pb2.EXECUTION_STATUS_UNKNOWN:
        return Answer(None, refusal_from(answer))
    return Answer(result_of(answer), None)


def answers_from(response: function_pb2.InvokeBatchResponse, count: int) -> list[Answer]:
    """The answers to so many inputs.

    Raises:
        RemoteError: they are not as many, or hold what we do not know.
    """
    if len(response.answers) != count:
        raise RemoteError(f"the server gave {len(response.answers)} answers to {count} inputs")
    return [answer_from(each) for each in response.answers]
