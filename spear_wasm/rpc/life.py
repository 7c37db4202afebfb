"""The life of a process that serves: startup, run, shutdown.

The edge has two threads. One polls gRPC, and runs quick guests to their end without any hand-over; what has to be
waited for otherwise is done by coroutines on the event loop of the main thread, which hears of signals, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from spear_wasm.api import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.config import Config, ServerConfig
from spear_wasm.errors import ConfigurationError
from spear_wasm.host import Host
from spear_wasm.rpc.access import TokenCheck, Tokens, server_credentials
from spear_wasm.rpc.artifact_service import ArtifactService
from spear_wasm.rpc.batches import REFUSAL_BYTES
from spear_wasm.rpc.edge import EdgeServer
from spear_wasm.rpc.figures import Figures
from spear_wasm.rpc.function_service import FunctionService
from spear_wasm.rpc.last_moment import LastMoment
from spear_wasm.rpc.others import NoOthers, Others

log = structlog.get_logger()

SWITCH_INTERVAL = 0.0005
"""Seconds that a thread may keep the GIL from others. The default of 5 ms is longer than a guest's slice."""
COLLECT_EVERY = 20_000
"""Objects made before the garbage collector looks. A call leaves no cycles behind, so looking is mostly waste."""
MESSAGE_OVERHEAD = 1 << 20
"""What a message may hold beside a payload of the largest size allowed."""
CLOSE_SECONDS = 2.0
"""What answers have to reach their callers in, once everything has ended; less where all of closing has less."""
SERVICES = (
    function_pb2.DESCRIPTOR.services_by_name["FunctionService"].full_name,
    artifact_pb2.DESCRIPTOR.services_by_name["ArtifactService"].full_name,
)
INVOKE_FUNCTION = f"/{SERVICES[0]}/InvokeFunction"


@contextlib.contextmanager
def tuned_for_serving() -> Iterator[LastMoment]:
    """This process as one that serves needs it, and the moment by which it ends."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(COLLECT_EVERY)
    last_moment = LastMoment()
    try:
        yield last_moment
    finally:
        last_moment.cancel()


class ServingProcess:
    """A host and the edge that it is reached by. `others` are the other workers of the server."""

    signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self, host: Host, address: str, last_moment: LastMoment, others: Others | None = None
    ) -> None:
        self._host = host
        self._config = host.config.server
        self._last_moment = last_moment
        self._address = address
        self._figures = Figures(host)
        self._functions = FunctionService(host, self._figures, others or NoOthers())
        self._artifacts = ArtifactService(host)
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()

    async def run(self, on_listening: Callable[[str], None]) -> None:
        """Startup, wait for a signal, shutdown."""
        server = await self._startup(on_listening)
        await self._stop.wait()
        await self._shutdown(server)

    async def _startup(self, on_listening: Callable[[str], None]) -> EdgeServer:
        loop = asyncio.get_running_loop()
        for number in self.signals:
            # Handled by the loop, so that KeyboardInterrupt never lands in a host call on a guest's stack.
            loop.add_signal_handler(number, self._on_signal)
        credentials = server_credentials(self._config)
        server = EdgeServer(
            caller_options(self._host.config)
            + connection_options(self._config, is_shared=self._host.seat.board.is_shared),
            self._config.max_unread,
            _check(self._config),
        )
        self._add_services(server)
        server.try_at_once(INVOKE_FUNCTION, self._functions.quick_calls.answer)
        port = server.bind(self._address, credentials)
        if not port:
            raise ConfigurationError(
                f"cannot listen on {self._address}: another program has that port, or the address is none of this "
                "machine's; a port of 0 stands for any that is free"
            )
        server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        bound = f"{self._address.rpartition(':')[0]}:{port}"
        log.info("server started", address=bound, pid=os.getpid(), data_dir=str(self._host.data_dir))
        on_listening(bound)
        return server

    def _add_services(self, server: Any) -> None:  # noqa: ANN401
        """To a server of ours; the types of generated code know grpcio's alone."""
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        function_pb2_grpc.add_FunctionServiceServicer_to_server(self._functions, server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(self._artifacts, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), server)  # type: ignore[no-untyped-call]  # generated

    def _on_signal(self) -> None:
        config = self._config
        if self._stop.is_set():
            log.warning("second signal: stopping at once")
            self._last_moment.set(config.closing_grace)
            self._host.end_executions()
        else:
            self._last_moment.set(config.shutdown_grace + config.closing_grace)
            self._stop.set()

    async def _shutdown(self, server: EdgeServer, grace_seconds: float | None = None) -> None:
        """In this order: say so, accept nothing, let what runs end, answer, close."""
        log.info("server stopping")
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._host.fetcher.close()
        self._host.compiler.close()
        await asyncio.to_thread(self._host.drain, grace_seconds)
        self._functions.hang_up()
        await server.stop(min(CLOSE_SECONDS, self._config.closing_grace / 2))
        self._functions.close()
        self._artifacts.close()
        log.info("server stopped")

    async def _set_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _check(config: ServerConfig) -> TokenCheck | None:
    """What every call passes first: nothing, unless there are tokens."""
    return TokenCheck(Tokens(Path(config.token_file))) if config.token_file else None


def caller_options(config: Config) -> list[tuple[str, int]]:
    """How large messages from callers and for them may be, and how many calls there may be."""
    return [
        ("grpc.max_receive_message_length", _largest_request(config)),
        ("grpc.max_send_message_length", _largest_answer(config)),
        *_call_options(config),
    ]


def door_options(config: Config) -> list[tuple[str, int]]:
    """The same for workers, who ask each other and get each other's answers."""
    largest = max(_largest_request(config), _largest_answer(config))
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", largest),
        *_call_options(config),
    ]


def _largest_request(config: Config) -> int:
    return max(config.ceiling.max_input, config.batches.max_input) + MESSAGE_OVERHEAD


def _largest_answer(config: Config) -> int:
    ceiling, batches = config.ceiling, config.batches
    of_call = 2 * ceiling.max_output + ceiling.max_log  # what a guest prints may be its result, too
    return max(of_call, batches.max_output + batches.max_inputs * REFUSAL_BYTES) + MESSAGE_OVERHEAD


def _call_options(config: Config) -> list[tuple[str, int]]:
    many = config.execution.max_running + config.execution.max_pending + 1000
    return [
        # gRPC answers bursts with CANCELLED by default; our own bound refuses with a reason and a hint.
        ("grpc.server.max_pending_requests", 10 * many),
        ("grpc.server.max_pending_requests_hard_limit", 20 * many),
    ]


def connection_options(config: ServerConfig, *, is_shared: bool) -> list[tuple[str, int]]:
    """What callers' connections may carry, how old they become, how often they may ping, and who else has the port."""
    age = round(config.max_connection_age * 1000) if is_shared else 0
    return [
        ("grpc.max_concurrent_streams", config.max_connection_streams),
        ("grpc.so_reuseport", int(is_shared)),
        *([("grpc.max_connection_age_ms", age)] if age else []),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
