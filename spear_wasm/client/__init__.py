"""A synchronous client: upload a module and call its functions in three lines.

    with Client("127.0.0.1:50052") as client:
        client.upload("calc.wasm", name="calc")
        print(client.call("calc", "add", 1, 2).value)

What goes wrong arrives as one of three kinds: a GuestFailure where the guest failed, with all that is known
about the execution; a SpearError of the class that the server raised, where the call was a mistake or was
refused; a RemoteError, which is a SpearError too, where the server has no class for it or cannot be reached.
"""

from __future__ import annotations

from spear_wasm.client.answers import Answer
from spear_wasm.client.connection import DEFAULT_ADDRESS, Client
from spear_wasm.client.errors import RemoteError, ServerUnreachable
from spear_wasm.client.invocations import Invocation
from spear_wasm.client.result import CallResult, GuestFailure
from spear_wasm.client.security import Tls
from spear_wasm.client.stream import CallStream
from spear_wasm.client.terms import CallTerms, TaskTerms
from spear_wasm.client.values import Argument

__all__ = [
    "DEFAULT_ADDRESS",
    "Answer",
    "Argument",
    "CallResult",
    "CallStream",
    "CallTerms",
    "Client",
    "GuestFailure",
    "Invocation",
    "RemoteError",
    "ServerUnreachable",
    "TaskTerms",
    "Tls",
]
