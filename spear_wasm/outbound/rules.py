"""Whom an untrusted party may have this host connect to: hosts by name, and then addresses.

A name that is allowed says nothing about where it leads: whoever owns it decides that, anew with each look-up.
So addresses are judged by themselves, at the moment of connecting; see `spear_wasm.outbound.connections`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Self, TypeAlias

from spear_wasm.errors import ConfigurationError, InvalidRequest, PermissionDenied
from spear_wasm.values import shown

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_PORT = 65535

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_PATTERN = re.compile(
    rf"(?P<host>\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?"
)


@dataclass(frozen=True, slots=True)
class HostPattern:
    """Hosts that are allowed: one by its name, `*.` and the domain they are below, or `*` for all of them.

    `port` is the only one that is allowed; None allows all. Names are in lower case, as they are written in URLs:
    an IPv6 address stands without its brackets here.
    """

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pattern in `HOST`, `HOST:PORT`, `*.DOMAIN`, `*.DOMAIN:PORT` or `*`.

        Raises:
            ConfigurationError: it is none of these.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or int(match["port"] or 1) not in range(1, MAX_PORT + 1):
            raise ConfigurationError(f"{text[:80]!a} is not HOST, HOST:PORT, *.DOMAIN or *")
        host = match["host"].lower().strip("[]")
        return cls(host, int(match["port"]) if match["port"] else None)

    def covers(self, other: HostPattern) -> bool:
        """Whether all hosts that another pattern allows are among them."""
        if self.port not in {None, other.port}:
            return False
        if self.host.startswith("*.") and other.host != self.host:
            below = other.host.removeprefix("*.")
            return below.endswith(self.host[1:]) and len(below) > len(self.host) - 1
        return self.host in {"*", other.host}

    def matches(self, host: str, port: int) -> bool:
        """Whether this host is among them; its name may end in a dot."""
        return self.covers(HostPattern(host.lower().removesuffix("."), port))


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """Which hosts may be connected to, and in which networks although these are not public.

    Nothing is allowed unless it is said.
    """

    hosts: tuple[HostPattern, ...] = ()
    private_networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, hosts: Iterable[str], private_networks: Iterable[str]) -> Self:
        """The rules in texts: host patterns, and networks like `10.0.0.0/8`.

        Raises:
            ConfigurationError: one of them is malformed.
        """
        return cls(tuple(map(HostPattern.parse, hosts)), tuple(map(_parse_network, private_networks)))

    def allow_host(self, host: str, port: int) -> bool:
        """Whether a host may be connected to by this name."""
        return any(pattern.matches(host, port) for pattern in self.hosts)

    def allow_address(self, address: Address) -> bool:
        """Whether this address may be connected to: it is public, or in a network that is allowed all the same."""
        plain = _unwrapped(address)
        return _is_public(plain) or any(plain in network for network in self.private_networks)


def grant_hosts(asked: Iterable[str], allowed: OutboundRules) -> OutboundRules:
    """The rules for who asks for hosts by patterns, in `allowed_hosts` of a runtime_config.

    Raises:
        InvalidRequest: a pattern is malformed.
        PermissionDenied: the operator does not allow it.
    """
    patterns = []
    for text in asked:
        pattern = _parse_asked(text)
        if not any(each.covers(pattern) for each in allowed.hosts):
            raise PermissionDenied(
                f"runtime_config.allowed_hosts has {shown(text, 300)}, which this server's runtimes.http_hosts do not "
                "allow",
                host=text[:300],
            )
        patterns.append(pattern)
    return OutboundRules(tuple(patterns), allowed.private_networks)


def _parse_asked(text: str) -> HostPattern:
    try:
        return HostPattern.parse(text)
    except ConfigurationError as error:
        raise InvalidRequest(f"runtime_config.allowed_hosts: {error.message}", key="allowed_hosts") from None


def _parse_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"{text[:80]!a} is not a network like 10.0.0.0/8: {error}") from error


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does: the kernel connects to that one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.sixtofour or address.teredo):
        return False  # it leads through a tunnel to an address that is inside it
    # What is reserved includes the prefixes by which IPv6 networks translate to IPv4 ones, private ones too.
    return address.is_global and not address.is_multicast and not address.is_reserved
