"""The server's life: startup, run, shutdown.

This file decides which of grpcio's servers is the edge. It is the asyncio one: a caller who waits costs 20 KiB
instead of a thread, and a quick guest runs to its end on the event loop's thread without any hand-over.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from spear_wasm.api import artifact_pb2, artifact_pb2_grpc, function_pb2, function_pb2_grpc
from spear_wasm.config import Config
from spear_wasm.errors import ConfigurationError
from spear_wasm.host import Host, open_host
from spear_wasm.logs import configure_logs
from spear_wasm.rpc.artifact_service import ArtifactService
from spear_wasm.rpc.figures import Figures
from spear_wasm.rpc.function_service import FunctionService
from spear_wasm.rpc.last_moment import LastMoment

log = structlog.get_logger()

SWITCH_INTERVAL = 0.0005
"""Seconds that a thread may keep the GIL from others. The default of 5 ms is longer than a guest's slice."""
COLLECT_EVERY = 20_000
"""Objects made before the garbage collector looks. A call leaves no cycles behind, so looking is mostly waste."""
MESSAGE_OVERHEAD = 1 << 20
"""What a message may hold beside a payload of the largest size allowed."""
CLOSE_SECONDS = 2.0
"""What answers have to reach their callers in, once everything has ended; less where all of closing has less."""
MAX_PORT = 65535
SERVICES = (
    function_pb2.DESCRIPTOR.services_by_name["FunctionService"].full_name,
    artifact_pb2.DESCRIPTOR.services_by_name["ArtifactService"].full_name,
)


def serve(address: str, data_dir: Path, config: Config, on_listening: Callable[[str], None]) -> None:
    """Serve on `HOST:PORT` until SIGTERM or SIGINT, then shut down cleanly. Blocks; for the main thread.

    `on_listening` is called once with the bound address when requests are answered.

    Raises:
        ConfigurationError: the address cannot be bound, or the data directory cannot be used.
    """
    configure_logs(config.log)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(COLLECT_EVERY)
    last_moment = LastMoment()
    try:
        with open_host(config, data_dir) as host:
            asyncio.run(_Server(host, address, last_moment).run(on_listening))
    finally:
        last_moment.cancel()


class _Server:
    """The edge of one host."""

    def __init__(self, host: Host, address: str, last_moment: LastMoment) -> None:
        self._host = host
        self._last_moment = last_moment
        self._address = address
        self._functions = FunctionService(host, Figures(host))
        self._artifacts = ArtifactService(host)
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()

    async def run(self, on_listening: Callable[[str], None]) -> None:
        """Startup, wait for a signal, shutdown."""
        server = await self._startup(on_listening)
        await self._stop.wait()
        await self._shutdown(server)

    async def _startup(self, on_listening: Callable[[str], None]) -> grpc.aio.Server:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Handled by the loop, so that KeyboardInterrupt never lands in a host call on a guest's stack.
            loop.add_signal_handler(number, self._on_signal)
        server = grpc.aio.server(options=_channel_options(self._host.config))
        server.add_registered_method_handlers = _register_nothing  # type: ignore[method-assign]
        function_pb2_grpc.add_FunctionServiceServicer_to_server(self._functions, server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(self._artifacts, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        _check_address(self._address)
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen on {self._address}: {error}") from error
        await server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        bound = f"{self._address.rpartition(':')[0]}:{port}"
        log.info("server started", address=bound, pid=os.getpid(), data_dir=str(self._host.data_dir))
        on_listening(bound)
        return server

    def _on_signal(self) -> None:
        config = self._host.config.server
        if self._stop.is_set():
            log.warning("second signal: stopping at once")
            self._last_moment.set(config.closing_grace)
            self._host.end_executions()
        else:
            self._last_moment.set(config.shutdown_grace + config.closing_grace)
            self._stop.set()

    async def _shutdown(self, server: grpc.aio.Server) -> None:
        """In this order: say so, accept nothing, let what runs end, answer, close."""
        log.info("server stopping")
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._host.compiler.close()
        await asyncio.to_thread(self._host.drain)
        await server.stop(min(CLOSE_SECONDS, self._host.config.server.closing_grace / 2))
        self._functions.close()
        self._artifacts.close()
        log.info("server stopped")

    async def _set_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _register_nothing(service_name: str, method_handlers: Mapping[str, object]) -> None:
    """What generated code calls, beside adding a service by its name, to register each of its methods.

    For registered methods grpcio waits one by one, and for all of them again with every call: the more there are,
    the dearer each call. For those of services that it knows by name it waits once.
    """


def _check_address(address: str) -> None:
    """Refuse what gRPC would take for another port, or for one of its own choice."""
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigurationError(
            f"cannot listen on {address}: it is not HOST:PORT with a port of 0 to {MAX_PORT}"
        )


def _channel_options(config: Config) -> list[tuple[str, int]]:
    payload = max(config.ceiling.max_input, config.ceiling.max_output + config.ceiling.max_log)
    many = config.execution.max_running + config.execution.max_pending + 1000
    return [
        ("grpc.max_receive_message_length", payload + MESSAGE_OVERHEAD),
        ("grpc.max_send_message_length", payload + MESSAGE_OVERHEAD),
        ("grpc.max_concurrent_streams", config.server.max_connection_streams),
        # grpcio answers bursts with CANCELLED by default; our own bound refuses with a reason and a hint.
        ("grpc.server.max_pending_requests", 10 * many),
        ("grpc.server.max_pending_requests_hard_limit", 20 * many),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
