"""Serving: in this process alone, or with workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from spear_wasm.config import Config
from spear_wasm.errors import ConfigurationError
from spear_wasm.host import open_host
from spear_wasm.logs import configure_logs
from spear_wasm.rpc.access import check_openness
from spear_wasm.rpc.life import ServingProcess, tuned_for_serving
from spear_wasm.rpc.worker import serve_as_worker
from spear_wasm.workers.shares import worker_count
from spear_wasm.workers.supervisor import supervise

MAX_PORT = 65535


def serve(
    address: str,
    data_dir: Path,
    config: Config,
    on_listening: Callable[[str], None],
    *,
    insecure: bool = False,
) -> None:
    """Serve on `HOST:PORT` until SIGTERM or SIGINT, then shut down cleanly. Blocks; for the main thread.

    `on_listening` is called once with the bound address when requests are answered. `insecure` lets others than
    this machine in without TLS and authentication.

    Raises:
        ConfigurationError: the address cannot be bound, or must not without TLS and tokens; their files or the
            data directory cannot be used.
        InstanceError: a worker had to be killed, or did not end in order. One that serves alone takes this process
            with it then.
    """
    host_name, port = _split(address)
    check_openness(address, config.server, insecure=insecure)
    count = worker_count(config)
    if count > 1:
        supervise((host_name, port), data_dir, config, on_listening, serve_as_worker, count=count)
        return
    configure_logs(config.log)
    with tuned_for_serving() as last_moment, open_host(config, data_dir) as host:
        asyncio.run(ServingProcess(host, address, last_moment).run(on_listening))


def _split(address: str) -> tuple[str, int]:
    """Host and port; refuses what gRPC would take for another port, or for one of its own choice."""
    host_name, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigurationError(
            f"cannot listen on {address}: it is not HOST:PORT with a port of 0 to {MAX_PORT}"
        )
    return host_name, int(port)
