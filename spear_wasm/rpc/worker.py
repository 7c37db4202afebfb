"""One of the workers of a server: an edge that shares its port, answers the others, and hears the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import structlog
from grpc_health.v1 import health_pb2

from spear_wasm.api import function_pb2_grpc
from spear_wasm.errors import InstanceError, SpearError
from spear_wasm.host import open_host
from spear_wasm.logs import configure_logs
from spear_wasm.rpc.edge import EdgeServer
from spear_wasm.rpc.inside import Inside
from spear_wasm.rpc.life import ServingProcess, door_options, tuned_for_serving
from spear_wasm.rpc.peers import Peers, door
from spear_wasm.rpc.sockets import has_connections, stop_listening
from spear_wasm.workers.control import Failed, Ready, Retire, Stop, TakenOver, TakeOver

if TYPE_CHECKING:
    from spear_wasm.host import Host
    from spear_wasm.rpc.last_moment import LastMoment
    from spear_wasm.workers.control import Line
    from spear_wasm.workers.supervisor import WorkerTerms

log = structlog.get_logger()

AGE_SPREAD = 1.1
"""GRPC lets connections grow older or younger than it is told by a tenth, so that not all of them go at once."""
SLACK_SECONDS = 1.0
TAKE_OVER_AGAIN_SECONDS = 1.0
LOOK_SECONDS = 0.05
"""How often to look whether anybody is connected."""


def serve_as_worker(terms: WorkerTerms, line: Line) -> int:
    """Serve until the supervisor wants no more; returns the exit code of this process."""
    close_log = configure_logs(terms.config.log, terms.seat.worker)
    try:
        with tuned_for_serving() as last_moment, open_host(terms.config, terms.data_dir, terms.seat) as host:
            asyncio.run(WorkerProcess(host, terms, line, last_moment).run(lambda _: line.send(Ready())))
    except SpearError as error:
        log.error("worker failed", error=error.message)  # noqa: TRY400  the message says it all
        line.send(Failed(error.message))
        return 1
    finally:
        close_log()
    return 0


class WorkerProcess(ServingProcess):
    """A worker."""

    signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM,)

    def __init__(self, host: Host, terms: WorkerTerms, line: Line, last_moment: LastMoment) -> None:
        self._peers = Peers(host, terms.doors, door_options(host.config))
        super().__init__(host, terms.address, last_moment, self._peers)
        self._door = door(terms.doors, host.seat.worker)
        self._line = line
        self._port = int(terms.address.rpartition(":")[2])
        self._takeovers: set[asyncio.Task[None]] = set()
        self._retires = False
        self._hurries = asyncio.Event()

    async def run(self, on_listening: Callable[[str], None]) -> None:
        """The same, with a door for the other workers."""
        inside = self._inside()
        if not inside.bind(self._door, None):
            raise InstanceError(f"the other workers cannot be heard at {self._door}")
        inside.start()
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._hear)
        try:
            await super().run(on_listening)
        finally:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            await inside.stop(0)
            await self._peers.close()

    def _inside(self) -> EdgeServer:
        # Generated code knows grpcio's servers alone.
        config = self._host.config
        inside: Any = EdgeServer(door_options(config), config.server.max_unread)
        functions = self._functions
        function_pb2_grpc.add_FunctionServiceServicer_to_server(functions.alone(), inside)
        questions = Inside(self._host, self._figures, functions.durable_calls)
        inside.add_generic_rpc_handlers((questions.handlers(),))
        return cast("EdgeServer", inside)

    def _hear(self) -> None:
        for message in self._line.messages():
            match message:
                case TakeOver():
                    self._begin_take_over(message)
                case Retire():
                    self._retire()
                case Stop(at_once):
                    self._stop_serving(at_once=at_once)
        if self._line.is_dead:  # the kernel is about to end this process, too
            self._on_signal()

    def _retire(self) -> None:
        if not self._stop.is_set():
            self._retires = True
            grace = self._config.shutdown_grace + self._config.closing_grace
            self._last_moment.set(self._seconds_to_leave() + grace)
            self._stop.set()

    def _on_signal(self) -> None:
        self._stop_serving(at_once=False)

    def _stop_serving(self, *, at_once: bool) -> None:
        if at_once or not self._stop.is_set():
            super()._on_signal()
        elif self._retires and not self._hurries.is_set():
            self._last_moment.set(self._config.shutdown_grace + self._config.closing_grace)
        self._hurries.set()

    def _seconds_to_leave(self) -> float:
        return AGE_SPREAD * self._config.max_connection_age + SLACK_SECONDS

    def _begin_take_over(self, what: TakeOver) -> None:
        task = asyncio.create_task(self._take_over(what))
        self._takeovers.add(task)
        task.add_done_callback(self._takeovers.discard)

    async def _take_over(self, what: TakeOver) -> None:
        try:
            await asyncio.to_thread(self._host.take_over, what.gone, what.part, what.parts)
        except SpearError as error:
            log.error("executions not taken over", gone=what.gone, error=error.message)  # noqa: TRY400  the message says it all
            loop = asyncio.get_running_loop()
            loop.call_later(TAKE_OVER_AGAIN_SECONDS, self._begin_take_over, what)
            return
        self._line.send(TakenOver(what))

    async def _shutdown(self, server: EdgeServer, grace_seconds: float | None = None) -> None:
        """One that retires serves on until its callers have turned to others, and sees what was begun to its end."""
        if self._retires:
            log.info("worker retiring")
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            await self._until_left()
            self._functions.hang_up()
            stopped = asyncio.create_task(server.stop(self._config.shutdown_grace))
            if not self._hurries.is_set():
                await asyncio.to_thread(self._host.finish)
                await stopped
                grace_seconds = 0.0
        await super()._shutdown(server, grace_seconds)

    async def _until_left(self) -> None:
        """Return when no caller is connected any more, or has had the time to find another worker."""
        stop_listening(self._port)
        leave_at = time.monotonic() + self._seconds_to_leave()
        while has_connections(self._port) and not self._hurries.is_set() and time.monotonic() < leave_at:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurries.wait(), LOOK_SECONDS)
