"""Which hosts and which addresses may be connected to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.errors import ConfigurationError
from spear_wasm.outbound.rules import HostPattern, OutboundRules

LABELS = st.sampled_from(["a", "b", "example", "com"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.sampled_from([80, 443])
PATTERNS = st.builds(
    HostPattern,
    st.one_of(st.just("*"), NAMES, NAMES.map("*.".__add__)),
    st.one_of(st.none(), PORTS),
)


@given(PATTERNS, PATTERNS, NAMES, PORTS)
def test_what_a_covered_pattern_allows_the_covering_one_allows(
    one: HostPattern, other: HostPattern, host: str, port: int
) -> None:
    if one.covers(other) and other.matches(host, port):
        assert one.matches(host, port)


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com:443", True),
        ("example.com:443", "example.com:443", True),
        ("example.com:443", "example.com", False),
        ("example.com", "*.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "*.www.example.com", True),
        ("*.www.example.com", "*.example.com", False),
        ("*.example.com", "*.evilexample.com", False),
        ("*.example.com", "*", False),
        ("*", "*", True),
        ("*", "*.example.com", True),
        ("*:443", "*", False),
        ("[::1]", "[::1]", True),
    ],
)
def test_a_pattern_covers_what_allows_no_more(one: str, other: str, covers: bool) -> None:
    assert HostPattern.parse(one).covers(HostPattern.parse(other)) is covers


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "EXAMPLE.com", 8443, True),
        ("Example.com", "example.com.", 80, True),
        ("example.com", "www.example.com", 443, False),
        ("example.com", "example.com.evil.net", 443, False),
        ("example.com", "notexample.com", 443, False),
        ("example.com:8443", "example.com", 8443, True),
        ("example.com:8443", "example.com", 443, False),
        ("*.example.com", "www.example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", ".example.com", 443, False),
        ("*.example.com", "evilexample.com", 443, False),
        ("*", "anything.net", 1, True),
        ("*:443", "anything.net", 80, False),
        ("127.0.0.1", "127.0.0.1", 8080, True),
        ("[::1]:8080", "::1", 8080, True),
    ],
)
def test_a_pattern_allows_its_hosts_and_no_others(pattern: str, host: str, port: int, allowed: bool) -> None:
    assert HostPattern.parse(pattern).matches(host, port) is allowed
    assert OutboundRules.parse([pattern], []).allow_host(host, port) is allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://example.com",
        "example.com/path",
        "exa*mple.com",
        "*.*",
        "a:0",
        "a:65536",
        "a b",
        "a\n",
        "-a",
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        HostPattern.parse(text)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "home", ""])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="network"):
        OutboundRules.parse([], [text])


def test_nothing_is_allowed_unless_it_is_said() -> None:
    assert not OutboundRules().allow_host("example.com", 443)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "224.0.1.129",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not OutboundRules().allow_address(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert OutboundRules().allow_address(ip_address(address))


def test_a_private_network_can_be_allowed_and_no_other_is_with_it() -> None:
    rules = OutboundRules.parse([], ["10.1.0.0/16", "::1/128"])
    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "::1"]
    assert all(rules.allow_address(ip_address(address)) for address in allowed)
    refused = ["10.2.0.1", "127.0.0.1", "169.254.169.254", "fe80::1"]
    assert not any(rules.allow_address(ip_address(address)) for address in refused)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_whichever_way_it_is_written(address: IPv4Address) -> None:
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    rules = OutboundRules.parse([], ["172.16.0.0/12"])
    assert rules.allow_address(mapped) == rules.allow_address(address)
