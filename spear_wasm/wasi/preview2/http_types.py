"""wasi:http/types: the types that its functions share, and header fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps

from spear_wasm.wasi.preview2.guest import ComponentGuest
from spear_wasm.wasi.preview2.interface import Interface
from spear_wasm.wasi.preview2.resources import HeldBytes
from spear_wasm.wit.values import Case, Err, Ok, WitValue

HTTP = Interface(
    "wasi:http/types", "fields", "incoming-request", "outgoing-request", "request-options", "response-outparam",
    "incoming-response", "incoming-body", "future-trailers", "outgoing-response", "outgoing-body",
    "future-incoming-response",
)  # fmt: skip

METHOD_NAMES = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
METHOD = f"variant {{ {', '.join(METHOD_NAMES)}, other(string) }}"
SCHEME = "variant { HTTP, HTTPS, other(string) }"
HEADER_ERROR = "variant { invalid-syntax, forbidden, immutable }"
_FIELD_SIZE = "record { field-name: option<string>, field-size: option<u32> }"
ERROR_CODE = (
    "variant { DNS-timeout, DNS-error(record { rcode: option<string>, info-code: option<u16> }), "
    "destination-not-found, destination-unavailable, destination-IP-prohibited, destination-IP-unroutable, "
    "connection-refused, connection-terminated, connection-timeout, connection-read-timeout, "
    "connection-write-timeout, connection-limit-reached, TLS-protocol-error, TLS-certificate-error, "
    "TLS-alert-received(record { alert-id: option<u8>, alert-message: option<string> }), HTTP-request-denied, "
    "HTTP-request-length-required, HTTP-request-body-size(option<u64>), HTTP-request-method-invalid, "
    "HTTP-request-URI-invalid, HTTP-request-URI-too-long, HTTP-request-header-section-size(option<u32>), "
    f"HTTP-request-header-size(option<{_FIELD_SIZE}>), HTTP-request-trailer-section-size(option<u32>), "
    f"HTTP-request-trailer-size({_FIELD_SIZE}), HTTP-response-incomplete, "
    f"HTTP-response-header-section-size(option<u32>), HTTP-response-header-size({_FIELD_SIZE}), "
    "HTTP-response-body-size(option<u64>), HTTP-response-trailer-section-size(option<u32>), "
    f"HTTP-response-trailer-size({_FIELD_SIZE}), HTTP-response-transfer-coding(option<string>), "
    "HTTP-response-content-coding(option<string>), HTTP-response-timeout, HTTP-upgrade-failed, "
    "HTTP-protocol-error, loop-detected, configuration-error, internal-error(option<string>) }"
)

MAX_FIELDS_BYTES = 256 << 10
"""Of all header fields that a guest holds."""
FIELD_OVERHEAD = 64
"""What a field counts besides its bytes: what it costs the host to keep one."""
FORBIDDEN = frozenset({
    "connection", "host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "proxy-connection", "te", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Fields about the connection, or where it leads, which are not a guest's to say."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(rb"[\0\r\n]")

Field = tuple[str, bytes]


class HeaderRefused(Exception):
    """A field cannot be as a guest wants it; the message is the case of `header-error`."""


class _Kept:
    """What one or several `Fields` see: counted once, until the last of them is closed."""

    __slots__ = ("entries", "holders", "size")

    def __init__(self) -> None:
        self.entries: list[Field] = []
        self.holders = 0
        self.size = 0


class Fields:
    """wasi:http/types' `fields`: names in lower case, each any number of times, in the order in which they came."""

    def __init__(self, held: HeldBytes, entries: Iterable[Field] = (), seen: _Kept | None = None) -> None:
        self.is_frozen = seen is not None
        self._held = held
        self._kept = seen or _Kept()
        self._kept.holders += 1
        for name, value in entries:
            self._append(name, value)

    @property
    def entries(self) -> list[Field]:
        """All of them."""
        return self._kept.entries

    def view(self) -> Fields:
        """The same fields, which cannot be changed by it; they are counted once, until nobody sees them any more."""
        return Fields(self._held, seen=self._kept)

    def copy(self) -> Fields:
        """Fields of its own."""
        return Fields(self._held, self.entries)

    def values(self, name: str) -> list[bytes]:
        """What all fields of a name have."""
        name = name.lower()
        return [value for each, value in self.entries if each == name]

    def append(self, name: str, value: bytes) -> None:
        """One more field."""
        self._append(self._changeable(name), _checked(value))

    def set(self, name: str, values: Sequence[bytes]) -> None:
        """Other fields instead of all of a name."""
        name, values = self._changeable(name), [_checked(value) for value in values]
        kept = [each for each in self.entries if each[0] != name]
        removed = sum(size_of(*each) for each in self.entries if each[0] == name)
        self._held.give_back(removed)
        self._kept.size -= removed
        self.entries[:] = kept
        for value in values:
            self._append(name, value)

    def _append(self, name: str, value: bytes) -> None:
        size = size_of(name, value)
        self._held.take(size, MAX_FIELDS_BYTES)
        self._kept.size += size
        self.entries.append((name, value))

    def _changeable(self, name: str) -> str:
        if self.is_frozen:
            raise HeaderRefused("immutable")
        if not TOKEN.fullmatch(name):
            raise HeaderRefused("invalid-syntax")
        if name.lower() in FORBIDDEN:
            raise HeaderRefused("forbidden")
        return name.lower()

    def close(self) -> None:
        """Once: they are not counted any more, unless somebody else sees them still."""
        assert self._kept.holders
        self._kept.holders -= 1
        if not self._kept.holders:
            self._held.give_back(self._kept.size)


def size_of(name: str, value: bytes) -> int:
    """What a field counts."""
    return len(name) + len(value) + FIELD_OVERHEAD


def _checked(value: bytes) -> bytes:
    if _NO_VALUE.search(value):
        raise HeaderRefused("invalid-syntax")
    return value


def _told(work: Callable[..., WitValue]) -> Callable[..., WitValue]:
    """A function whose refusals its guest is told of."""

    @wraps(work)
    def answer(guest: ComponentGuest, *args: WitValue) -> WitValue:
        try:
            return Ok(work(guest, *args))
        except HeaderRefused as refused:
            return Err(Case(str(refused)))

    return answer


_SELF = "self: borrow<fields>"
_CHANGED = f"result<_, {HEADER_ERROR}>"


@HTTP.function("[constructor]fields", "func() -> own<fields>")
def new_fields(guest: ComponentGuest) -> WitValue:
    return guest.resources.add(Fields(guest.fields))


@HTTP.function(
    "[static]fields.from-list",
    f"func(entries: list<tuple<string, list<u8>>>) -> result<own<fields>, {HEADER_ERROR}>",
)
@_told
def from_list(guest: ComponentGuest, entries: Sequence[Field]) -> WitValue:
    fields = Fields(guest.fields)
    try:
        for name, value in entries:
            fields.append(name, value)
    except BaseException:
        fields.close()
        raise
    return guest.resources.add(fields)


@HTTP.function("[method]fields.get", f"func({_SELF}, name: string) -> list<list<u8>>")
def get(guest: ComponentGuest, number: int, name: str) -> WitValue:
    return list(guest.resources.get(number, Fields).values(name))


@HTTP.function("[method]fields.has", f"func({_SELF}, name: string) -> bool")
def has(guest: ComponentGuest, number: int, name: str) -> WitValue:
    return bool(guest.resources.get(number, Fields).values(name))


@HTTP.function("[method]fields.set", f"func({_SELF}, name: string, value: list<list<u8>>) -> {_CHANGED}")
@_told
def set_fields(guest: ComponentGuest, number: int, name: str, values: Sequence[bytes]) -> WitValue:
    guest.resources.get(number, Fields).set(name, values)
    return None


@HTTP.function("[method]fields.delete", f"func({_SELF}, name: string) -> {_CHANGED}")
@_told
def delete(guest: ComponentGuest, number: int, name: str) -> WitValue:
    guest.resources.get(number, Fields).set(name, ())
    return None


@HTTP.function("[method]fields.append", f"func({_SELF}, name: string, value: list<u8>) -> {_CHANGED}")
@_told
def append(guest: ComponentGuest, number: int, name: str, value: bytes) -> WitValue:
    guest.resources.get(number, Fields).append(name, value)
    return None


@HTTP.function("[method]fields.entries", f"func({_SELF}) -> list<tuple<string, list<u8>>>")
def entries(guest: ComponentGuest, number: int) -> WitValue:
    return list(guest.resources.get(number, Fields).entries)


@HTTP.function("[method]fields.clone", f"func({_SELF}) -> own<fields>")
def clone(guest: ComponentGuest, number: int) -> WitValue:
    return guest.resources.add(guest.resources.get(number, Fields).copy())


@HTTP.function("http-error-code", f"func(err: borrow<error>) -> option<{ERROR_CODE}>")
def http_error_code(_guest: ComponentGuest, _number: int) -> WitValue:
    return None
