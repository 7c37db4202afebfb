from __future__ import annotations

import socket

import pytest

from spear_wasm.errors import ConfigurationError
from spear_wasm.workers.port import reserved_port


def listener(port: int, *, shared: bool) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    try:
        found.bind(("127.0.0.1", port))
    except OSError:
        found.close()
        raise
    found.listen()
    return found


def test_a_reserved_port_is_for_those_who_share_it() -> None:
    with reserved_port("127.0.0.1", 0) as port, listener(port, shared=True), listener(port, shared=True):
        with pytest.raises(OSError, match="in use"):
            listener(port, shared=False)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_nobody_waits_where_nobody_listens() -> None:
    with reserved_port("127.0.0.1", 0) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_others_listen_on_cannot_be_had(shared: bool) -> None:
    with listener(0, shared=shared) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"),
            reserved_port("127.0.0.1", port),
        ):
            pass


def test_an_address_that_is_none_of_ours_cannot_be_had() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0"),
        reserved_port("192.0.2.1", 0),
    ):
        pass


def test_a_name_with_several_addresses_has_one_port() -> None:
    with reserved_port("localhost", 0) as port:
        assert port
