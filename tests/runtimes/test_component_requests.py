"""Requests as callers describe them: whatever comes is one, or is refused as the caller's mistake."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtimes.component.requests import read_request, response_document
from spear_wasm.errors import InvalidRequest
from spear_wasm.model import Parameter
from tests.workshop import LIMITS

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["url", "method", "headers", "body", "other"])
ANYTHING = JSON | st.binary(max_size=30) | st.dictionaries(KEYS, JSON | st.sampled_from(["/", "GET", "eA=="]))
NAMES = st.sampled_from(["", "request", "body", "stdin"])
TOKENS = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=30)


@given(st.lists(st.tuples(NAMES, ANYTHING), max_size=3))
def test_whatever_a_caller_says_is_a_request_or_a_mistake_of_the_callers(
    given_: list[tuple[str, Any]],
) -> None:
    parameters = [Parameter(value, name) for name, value in given_]
    with contextlib.suppress(InvalidRequest):
        request = read_request(parameters, LIMITS)
        assert request.path.startswith("/")
        assert request.scheme in {"http", "https"}
        assert request.authority
        assert all(name == name.lower() for name, _ in request.headers)


@given(st.lists(st.tuples(TOKENS, VALUES), max_size=5), st.binary(max_size=50), TOKENS)
def test_headers_and_bodies_arrive_as_they_were_said(
    headers: list[tuple[str, str]], content: bytes, method: str
) -> None:
    asked = Parameter({"headers": [list(each) for each in headers], "method": method})
    request = read_request([asked, Parameter(content, "body")], LIMITS)
    assert [(name, value.decode()) for name, value in request.headers] == [
        (name.lower(), value) for name, value in headers
    ]
    assert (request.content, request.method) == (content, method.upper())


@given(st.lists(st.tuples(TOKENS, st.binary(max_size=20)), max_size=5), st.none() | st.binary(max_size=50))
def test_every_response_can_be_told(headers: list[tuple[str, bytes]], content: bytes | None) -> None:
    told = json.loads(response_document(200, headers, content))
    assert [name for name, _ in told["headers"]] == [name for name, _ in headers]
    assert ("body" in told) == (content is not None)
