"""Addresses of servers, `HOST:PORT`."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(address: str) -> bool:
    """Whether what listens at this address is reached from this machine only.

    Names other than `localhost` may mean anything, and an IPv6 address stands in brackets.
    """
    host = address.rpartition(":")[0]
    if host == "localhost":
        return True
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return False
    return found.is_loopback and bracketed == (found.version == 6)
