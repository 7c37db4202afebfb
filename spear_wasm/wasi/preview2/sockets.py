"""wasi:sockets: there for those who import it, and every socket is refused. So nothing of one is ever asked."""

from __future__ import annotations

from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wit.values import Err, WitValue

NETWORK = Interface("wasi:sockets/network", "network")
INSTANCE_NETWORK = Interface("wasi:sockets/instance-network")
LOOKUP = Interface("wasi:sockets/ip-name-lookup", "resolve-address-stream")
CREATE_TCP = Interface("wasi:sockets/tcp-create-socket")
TCP = Interface("wasi:sockets/tcp", "tcp-socket")
CREATE_UDP = Interface("wasi:sockets/udp-create-socket")
UDP = Interface("wasi:sockets/udp", "udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream")

_ERROR = (
    "enum { unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, concurrency-conflict, "
    "not-in-progress, would-block, invalid-state, new-socket-limit, address-not-bindable, address-in-use, "
    "remote-unreachable, connection-refused, connection-reset, connection-aborted, datagram-too-large, "
    "name-unresolvable, temporary-resolver-failure, permanent-resolver-failure }"
)
_FAMILY = "enum { ipv4, ipv6 }"
_IPV4 = "tuple<u8, u8, u8, u8>"
_IPV6 = "tuple<u16, u16, u16, u16, u16, u16, u16, u16>"
_ADDRESS = (
    f"variant {{ ipv4(record {{ port: u16, address: {_IPV4} }}), "
    f"ipv6(record {{ port: u16, flow-info: u32, address: {_IPV6}, scope-id: u32 }}) }}"
)
_NETWORK = "network: borrow<network>"
_NOTHING = f"result<_, {_ERROR}>"


class Network:
    """wasi:sockets' `network`: nothing can be reached by it."""

    def close(self) -> None:
        """There is nothing to give back."""


@INSTANCE_NETWORK.function("instance-network", "func() -> own<network>")
def instance_network(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(Network())


@NETWORK.function("network-error-code", f"func(err: borrow<error>) -> option<{_ERROR}>")
def network_error_code(_guest: ComponentGuest, _number: int) -> WitValue:
    return None


def _refused(_: ComponentGuest, *_args: WitValue) -> WitValue:
    return Err("access-denied")


def _refuse(interface: Interface, name: str, params: str, result: str) -> None:
    interface.function(name, f"func({params}) -> result<{result}, {_ERROR}>")(_refused)


def _refuse_setting(interface: Interface, resource: str, name: str, kind: str) -> None:
    _refuse_method(interface, resource, name, "", kind)
    _refuse_method(interface, resource, f"set-{name}", f"value: {kind}", "_")


def _refuse_method(interface: Interface, resource: str, name: str, params: str, result: str) -> None:
    given = ", ".join(filter(None, (f"self: borrow<{resource}>", params)))
    _refuse(interface, f"[method]{resource}.{name}", given, result)


def _never(_: ComponentGuest, *_args: WitValue) -> WitValue:
    raise AssertionError("there is no socket of which it could be asked")


def _never_called(interface: Interface, resource: str, name: str, result: str) -> None:
    interface.function(f"[method]{resource}.{name}", f"func(self: borrow<{resource}>) -> {result}")(_never)


_refuse(LOOKUP, "resolve-addresses", f"{_NETWORK}, name: string", "own<resolve-address-stream>")
_refuse_method(
    LOOKUP,
    "resolve-address-stream",
    "resolve-next-address",
    "",
    f"option<variant {{ ipv4({_IPV4}), ipv6({_IPV6}) }}>",
)
_never_called(LOOKUP, "resolve-address-stream", "subscribe", "own<pollable>")

_refuse(CREATE_TCP, "create-tcp-socket", f"address-family: {_FAMILY}", "own<tcp-socket>")
_STREAMS = "own<input-stream>, own<output-stream>"
for _name, _params, _result in (
    ("start-bind", f"{_NETWORK}, local-address: {_ADDRESS}", "_"),
    ("finish-bind", "", "_"),
    ("start-connect", f"{_NETWORK}, remote-address: {_ADDRESS}", "_"),
    ("finish-connect", "", f"tuple<{_STREAMS}>"),
    ("start-listen", "", "_"),
    ("finish-listen", "", "_"),
    ("accept", "", f"tuple<own<tcp-socket>, {_STREAMS}>"),
    ("local-address", "", _ADDRESS),
    ("remote-address", "", _ADDRESS),
    ("set-listen-backlog-size", "value: u64", "_"),
    ("shutdown", "shutdown-type: enum { receive, send, both }", "_"),
):
    _refuse_method(TCP, "tcp-socket", _name, _params, _result)
for _name, _kind in (
    ("keep-alive-enabled", "bool"),
    ("keep-alive-idle-time", "u64"),
    ("keep-alive-interval", "u64"),
    ("keep-alive-count", "u32"),
    ("hop-limit", "u8"),
    ("receive-buffer-size", "u64"),
    ("send-buffer-size", "u64"),
):
    _refuse_setting(TCP, "tcp-socket", _name, _kind)
_never_called(TCP, "tcp-socket", "is-listening", "bool")
_never_called(TCP, "tcp-socket", "address-family", _FAMILY)
_never_called(TCP, "tcp-socket", "subscribe", "own<pollable>")

_refuse(CREATE_UDP, "create-udp-socket", f"address-family: {_FAMILY}", "own<udp-socket>")
_DATAGRAMS = "own<incoming-datagram-stream>, own<outgoing-datagram-stream>"
for _name, _params, _result in (
    ("start-bind", f"{_NETWORK}, local-address: {_ADDRESS}", "_"),
    ("finish-bind", "", "_"),
    ("stream", f"remote-address: option<{_ADDRESS}>", f"tuple<{_DATAGRAMS}>"),
    ("local-address", "", _ADDRESS),
    ("remote-address", "", _ADDRESS),
):
    _refuse_method(UDP, "udp-socket", _name, _params, _result)
for _name, _kind in (
    ("unicast-hop-limit", "u8"),
    ("receive-buffer-size", "u64"),
    ("send-buffer-size", "u64"),
):
    _refuse_setting(UDP, "udp-socket", _name, _kind)
_never_called(UDP, "udp-socket", "address-family", _FAMILY)
_never_called(UDP, "udp-socket", "subscribe", "own<pollable>")
_INCOMING = f"list<record {{ data: list<u8>, remote-address: {_ADDRESS} }}>"
_OUTGOING = f"list<record {{ data: list<u8>, remote-address: option<{_ADDRESS}> }}>"
_refuse_method(UDP, "incoming-datagram-stream", "receive", "max-results: u64", _INCOMING)
_never_called(UDP, "incoming-datagram-stream", "subscribe", "own<pollable>")
_refuse_method(UDP, "outgoing-datagram-stream", "check-send", "", "u64")
_refuse_method(UDP, "outgoing-datagram-stream", "send", f"datagrams: {_OUTGOING}", "u64")
_never_called(UDP, "outgoing-datagram-stream", "subscribe", "own<pollable>")

SOCKETS = (NETWORK, INSTANCE_NETWORK, LOOKUP, CREATE_TCP, TCP, CREATE_UDP, UDP)
