"""What one guest of preview 2 has of the world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from spear_wasm.outbound.rules import OutboundRules, grant_hosts
from spear_wasm.wasi.descriptors import ErrorOutput, Input, Output
from spear_wasm.wasi.guest import GuestWorld, WasiCall
from spear_wasm.wasi.preview2.resources import HeldBytes, Resources
from spear_wasm.wasi.volume import Volume
from spear_wasm.wit.values import Case

if TYPE_CHECKING:
    from spear_wasm.config import RuntimeConfig
    from spear_wasm.engine.components.sandbox import ComponentSandbox
    from spear_wasm.wasi.preview2.http_answering import OutgoingResponse
    from spear_wasm.wishes import Wishes


@dataclass(frozen=True, slots=True)
class HttpGrant:
    """Where a guest may send requests, how many all guests together at once, and how large a response may be."""

    rules: OutboundRules
    max_requests: int
    max_response_bytes: int

    @classmethod
    def parse(cls, wishes: Wishes, allowed: RuntimeConfig) -> Self:
        """The key `allowed_hosts` of a runtime_config.

        Raises:
            InvalidRequest: it makes no sense.
            PermissionDenied: the operator did not allow it.
        """
        rules = grant_hosts(wishes.texts("allowed_hosts"), allowed.http_rules())
        return cls(rules, allowed.max_http_requests, int(allowed.max_http_response))


class ComponentGuest(GuestWorld):
    """The state of a sandbox whose guest is a component. Used by whoever runs the guest, one at a time.

    What it holds is counted: `fields` of headers, `contents` of messages that it makes, and of `responses` that it got.
    `printed` goes to the caller; `stdout` does, too, but where the guest answers a request by `answer`: that is its
    response, or why there is none.
    """

    def __init__(
        self,
        sandbox: ComponentSandbox,
        http: HttpGrant,
        variables: Mapping[str, str],
        volumes: Iterable[Volume],
    ) -> None:
        super().__init__(variables, volumes)
        self.http = http
        self.resources = Resources()
        self.fields = HeldBytes("header fields")
        self.contents = HeldBytes("messages to send")
        self.responses = HeldBytes("responses")
        self.stdin = Input(b"")
        self.printed = Output(sandbox)
        self.stderr = ErrorOutput(sandbox)
        self.stdout: Output | ErrorOutput = self.printed
        self.answer: OutgoingResponse | Case | None = None
        self._sandbox = sandbox

    @property
    def max_output_bytes(self) -> int:
        """What it may print, and so send."""
        return self._sandbox.limits.max_output_bytes

    @property
    def max_seconds(self) -> float:
        """What it may take."""
        return self._sandbox.limits.max_wall_time_ms / 1000

    def begin(self, call: WasiCall) -> None:
        """Take what a call brings, standard input, too."""
        super().begin(call)
        self.stdin = Input(call.stdin)

    def begin_answer(self) -> None:
        """It is asked for a response: that is its result until `end_answer`, and what it prints is its log."""
        self.stdout = self.stderr

    def end_answer(self) -> None:
        """It has answered."""
        self.stdout = self.printed
        answer, self.answer = self.answer, None
        if answer is not None and not isinstance(answer, Case):
            answer.close()

    def close(self) -> None:
        """Close all that it holds, and remove the scratch directory."""
        self.resources.close()
        super().close()


def guest_of(sandbox: ComponentSandbox) -> ComponentGuest:
    """What the guest in a sandbox has of the world."""
    return cast("ComponentGuest", sandbox.state)
