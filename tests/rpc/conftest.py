from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rpc.serving import FIXTURES, Server, fixture, fresh

TIGHT = """
[execution]
max_running = 8
max_pending = 16
max_total_memory = "512MiB"
threads = 2

[engine]
sandboxes = 64

[pool]
max_ready = 40
max_ready_per_task = 4

[artifacts]
max_artifact = "4MiB"
upload_idle_timeout = "5s"

[default_limits]
max_memory = "16MiB"
max_input = "1MiB"
max_output = "1MiB"
max_table_elements = 5_000
max_wall_time = "20s"

[ceiling]
max_memory = "64MiB"
max_input = "2MiB"
max_output = "2MiB"
max_log = "1MiB"
max_table_elements = 10_000
max_wall_time = "60s"

[server]
shutdown_grace = "3s"
"""

StartServer = Callable[..., Server]
UNLINKABLE = {"needs_import", "wrong_import"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight bounds that has all fixtures that it takes, by the names of their files."""
    running = Server(tmp_path_factory.mktemp("server"), TIGHT)
    with contextlib.closing(running):
        for name in {path.stem for path in FIXTURES.glob("*.wasm")} - UNLINKABLE:
            running.upload(fixture(name), name, "1")
        yield running
        assert running.stop() == 0


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that are gone after the test: `start_server(config)`, `directory` for one of another run."""
    with contextlib.ExitStack() as running:

        def start(config: str = "", directory: Path | None = None) -> Server:
            return running.enter_context(
                contextlib.closing(Server(directory or tmp_path / fresh("server"), config))
            )

        yield start
