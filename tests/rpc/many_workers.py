"""A server with several workers, and ways to speak with a particular one of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc

from spear_wasm.api import artifact_pb2_grpc, function_pb2_grpc
from tests.rpc.serving import Server, fixture, until

WORKERS = 2
TRIES = 200
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""The retry policy that gRPC's documentation has for an example."""


class WorkersServer(Server):
    """A `spear-wasm serve --workers` process; what it is itself asked, any worker may answer."""

    def __init__(
        self,
        directory: Path,
        config: str = "",
        workers: int = WORKERS,
        age: str = "1h",
        streams: int = 10_000,
    ) -> None:
        self._views: dict[int, WorkerView] = {}
        server = f"workers = {workers}\nshutdown_grace = '3s'\nmax_connection_age = '{age}'\n"
        server += f"max_connection_streams = {streams}\n"
        super().__init__(directory, f"{config}\n[server]\n{server}")

        self.channel.close()
        self.channel = grpc.insecure_channel(
            self.address, options=[("grpc.service_config", RETRYING), ("grpc.enable_http_proxy", 0)]
        )
        self.functions = function_pb2_grpc.FunctionServiceStub(self.channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self.channel)

    def close(self) -> None:
        """However it is, it is gone afterwards."""
        for view in self._views.values():
            view.channel.close()
        super().close()

    def pids(self) -> dict[int, int]:
        """The processes of all workers, by their numbers; while one does not answer, all are asked again."""
        while True:
            info = self.health().details.system_info
            lines = {key: text for key, text in info.items() if key.startswith("worker.")}
            pids = {key: re.match(r"pid (\d+)", text) for key, text in lines.items()}
            found = {int(key.removeprefix("worker.")): int(pid[1]) for key, pid in pids.items() if pid}
            if len(found) == len(lines):
                return found

    def views(self) -> list[WorkerView]:
        """A connection to each of the workers, in the order of their numbers."""
        numbers = self.pids().keys()
        for gone in self._views.keys() - numbers:
            self._views.pop(gone).channel.close()
        with contextlib.ExitStack() as superfluous:
            for _ in range(TRIES):
                if self._views.keys() >= numbers:
                    return [self._views[number] for number in sorted(numbers)]
                view = WorkerView(self)
                if view.number in self._views:
                    superfluous.callback(view.channel.close)  # later: else the next one may have its port
                else:
                    self._views[view.number] = view
        raise AssertionError(
            f"{TRIES} connections have not reached all of {numbers}, but {self._views.keys()}"
        )

    def another_view(self, of: WorkerView) -> WorkerView:
        """One more connection to a worker."""
        with contextlib.ExitStack() as superfluous:
            for _ in range(TRIES):
                view = WorkerView(self)
                if view.number == of.number:
                    return view
                superfluous.callback(view.channel.close)
        raise AssertionError(f"{TRIES} connections have not reached {of.number} once more")

    def kill(self, number: int) -> None:
        """Kill a worker."""
        os.kill(self.pids()[number], signal.SIGKILL)

    def wait_for_successor(self, gone: int, workers: int = WORKERS) -> None:
        """Wait until all places are taken again, though not by that worker."""

        def is_complete() -> bool:
            numbers = self.pids().keys()
            return len(numbers) == workers and gone not in numbers

        until(is_complete)

    def replace_all(self) -> None:
        """Replace all workers, and wait until that is done."""
        before = self.pids().keys()
        self.signal(signal.SIGHUP)
        until(lambda: len(self.pids()) == len(before) and not before & self.pids().keys())


class WorkerView(Server):
    """One worker of a server, by a connection of its own."""

    def __init__(self, server: WorkersServer) -> None:
        self.data_dir = server.data_dir
        self.process = server.process
        self.address = server.address
        self.channel = grpc.insecure_channel(
            server.address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )
        self.functions = function_pb2_grpc.FunctionServiceStub(self.channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        self.standard_health = health_pb2_grpc.HealthStub(self.channel)
        self.number = int(self.health().details.system_info["worker"])


@contextlib.contextmanager
def running_workers(
    directory: Path,
    config: str = "",
    workers: int = WORKERS,
    *,
    age: str = "1h",
    streams: int = 10_000,
    artifacts: tuple[str, ...] = ("calc", "hostile"),
) -> Iterator[WorkersServer]:
    """A server with these artifacts, by the names of their files.

    `age` is how long connections stay at a worker, `streams` how many calls one has.
    """
    with contextlib.closing(WorkersServer(directory, config, workers, age, streams)) as server:
        for name in artifacts:
            server.upload(fixture(name), name, "1")
        yield server
