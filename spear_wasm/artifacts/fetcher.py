"""Artifacts that are not uploaded but named by where they are: fetched into an upload of our own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from spear_wasm.artifacts.catalog import StoredArtifact
from spear_wasm.artifacts.local_files import chunks_of, file_opened, path_in
from spear_wasm.artifacts.references import quoted
from spear_wasm.artifacts.upload import Upload
from spear_wasm.config import FetchConfig
from spear_wasm.errors import ArtifactNotFound, FetchFailed, InvalidRequest, LocationForbidden
from spear_wasm.outbound.connections import Deadline, GuardedConnections
from spear_wasm.outbound.http import MAX_URL_CHARS, NO_RESPONSE, PORTS, Request, check_url, opened

Chunks: TypeAlias = Iterable[bytes]

_GONE = frozenset({404, 410})


class Fetcher:
    """Reads what is at a location, within what the configuration allows. Blocks; thread-safe."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._rules = config.rules()
        self._lock = threading.Lock()  # guards: _under_way, _is_closed
        self._under_way: set[GuardedConnections] = set()
        self._is_closed = False

    def check(self, location: str) -> None:
        """Refuse what can be told without asking anybody.

        Raises:
            InvalidRequest: it is no location.
            LocationForbidden: nothing is fetched from there.
        """
        if len(location) > MAX_URL_CHARS:
            raise InvalidRequest(f"location is longer than {MAX_URL_CHARS} characters")
        scheme = _scheme_of(location)
        if scheme == "file":
            path_in(location)
            is_allowed, key = bool(self._config.directories), "fetch.directories"
        elif scheme in PORTS:
            check_url(location)
            is_allowed, key = bool(self._config.hosts), "fetch.hosts"
        else:
            raise InvalidRequest(f"location {quoted(location)} is no file://, http:// or https:// URL")
        if not is_allowed:
            raise LocationForbidden(
                f"this server fetches no artifacts from {scheme}:// locations; the operator allows it with {key}, "
                "or upload the module and name it by artifact_id",
                keys=key,
            )

    def fetch(self, location: str, begin: Callable[[], Upload]) -> StoredArtifact:
        """What is there, stored by an upload that `begin` gives.

        Raises:
            InvalidRequest, LocationForbidden: see `check`; a redirect may lead to such places, too.
            ArtifactNotFound: there is nothing at that location.
            FetchFailed: it did not give what it should, or not in time.
            ArtifactError: what the upload refuses.
        """
        self.check(location)
        deadline = Deadline(self._config.max_time)
        with _failures_named(location), begin() as upload, self._opened(location, deadline) as chunks:
            for chunk in chunks:
                deadline.remaining()
                upload.write(chunk)
            stored, _ = upload.finish()
            return stored

    @contextlib.contextmanager
    def _opened(self, location: str, deadline: Deadline) -> Iterator[Chunks]:
        if _scheme_of(location) == "file":
            with file_opened(path_in(location), self._config.directories) as file:
                yield chunks_of(file)
        else:
            with (
                self._connections(deadline) as connections,
                opened(Request(location), connections, self._config.max_redirects) as response,
            ):
                _check_status(response.status, location)
                yield response.iter_stream()

    @contextlib.contextmanager
    def _connections(self, deadline: Deadline) -> Iterator[GuardedConnections]:
        connections = GuardedConnections(self._rules, deadline)
        with self._lock:
            self._under_way.add(connections)
            is_closed = self._is_closed
        if is_closed:
            connections.cut()
        try:
            yield connections
        finally:
            with self._lock:
                self._under_way.discard(connections)

    def close(self) -> None:
        """End the fetches that are under way, and those that come."""
        with self._lock:
            self._is_closed = True
            under_way = tuple(self._under_way)
        for connections in under_way:
            connections.cut()


@contextlib.contextmanager
def _failures_named(location: str) -> Iterator[None]:
    try:
        yield
    except NO_RESPONSE as error:
        raise FetchFailed(
            f"{quoted(location)} could not be fetched: {str(error) or type(error).__name__}"
        ) from error


def _check_status(status: int, location: str) -> None:
    if status in _GONE:
        raise ArtifactNotFound(f"there is nothing at {quoted(location)}: its host answers {status}")
    if status != 200:
        raise FetchFailed(f"{quoted(location)} could not be fetched: its host answers {status}")


def _scheme_of(location: str) -> str:
    return location.partition(":")[0].lower()
