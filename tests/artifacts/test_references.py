from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.artifacts.references import (
    Reference,
    check_name,
    check_prefix,
    check_version,
    digest_reference,
    parse_checksum,
    parse_reference,
    quoted,
)
from spear_wasm.errors import InvalidRequest

PARTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
NAMES = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda name: len(name) <= 255 and name != "sha256")
)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
REFERENCES = st.one_of(
    st.builds(Reference, name=NAMES, version=st.one_of(st.just(""), PARTS)),
    st.builds(Reference, digest=DIGESTS),
)
HEX = "0123456789abcdef" * 4

MALFORMED_PARTS = [
    "",
    ".hidden",
    "-flag",
    "_x",
    "a b",
    "a\n",
    "a\0",
    "é",
    "a\N{ARABIC-INDIC DIGIT ONE}",
    "a\udc80",
    "a" * 129,
    "a" * 1_000_000,
]


@given(REFERENCES)
def test_what_a_reference_prints_is_parsed_back_to_it(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text())
def test_any_text_is_a_reference_that_prints_the_same_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    assert str(reference) == (text if reference.name else text.lower())


@given(st.text(min_size=1).filter(lambda text: not text.isascii()))
def test_no_name_version_or_checksum_holds_anything_but_ascii(text: str) -> None:
    for check in (check_name, check_version, check_prefix, parse_checksum, parse_reference):
        with pytest.raises(InvalidRequest):
            check(text)


def test_a_reference_is_a_name_a_version_or_a_digest() -> None:
    assert parse_reference("team/calc") == Reference(name="team/calc")
    assert parse_reference("team/calc:v1.2") == Reference(name="team/calc", version="v1.2")
    assert parse_reference("sha256:" + HEX) == Reference(digest=HEX)


@pytest.mark.parametrize("text", MALFORMED_PARTS)
def test_malformed_names_and_versions_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(text)
    with pytest.raises(InvalidRequest):
        check_version(text)
    with pytest.raises(InvalidRequest):
        parse_reference("calc:" + text)


@pytest.mark.parametrize("text", ["a/", "/a", "a//b", "a/../b", "a/.b", "../a", "a:b:c", "a/b:c/d"])
def test_a_name_has_no_empty_or_dotted_parts_and_no_second_colon(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


def test_a_version_has_one_part() -> None:
    with pytest.raises(InvalidRequest):
        check_version("a/b")


def test_a_whole_name_is_bounded() -> None:
    longest = "a" * 127 + "/" + "b" * 127
    assert check_name(longest) == longest
    with pytest.raises(InvalidRequest):
        check_name(longest + "b")


def test_the_name_that_would_read_as_a_digest_is_reserved() -> None:
    with pytest.raises(InvalidRequest, match="reserved"):
        check_name("sha256")
    assert check_name("sha256/x") == "sha256/x"
    with pytest.raises(InvalidRequest):
        parse_reference("sha256:v1")


@pytest.mark.parametrize("text", [HEX, "sha256:" + HEX, HEX.upper(), "sha256:" + HEX.upper()])
def test_a_checksum_is_hex_with_or_without_its_algorithm(text: str) -> None:
    assert parse_checksum(text) == HEX


@pytest.mark.parametrize(
    "text", ["", "sha256:", HEX[:-1], HEX + "0", "md5:" + HEX, "g" * 64, HEX + "\n", " " + HEX]
)
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        parse_checksum(text)


def test_a_version_beside_a_reference_is_taken_up() -> None:
    assert parse_reference("calc").at("v1") == Reference("calc", "v1")
    assert parse_reference("calc:v1").at("v1") == Reference("calc", "v1")
    assert parse_reference("calc:v1").at("") == Reference("calc", "v1")
    assert parse_reference("sha256:" + HEX).at("v1") == Reference(digest=HEX, version="v1")


def test_two_different_versions_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="names a version already"):
        parse_reference("calc:v1").at("v2")


def test_a_malformed_version_beside_a_reference_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse_reference("calc").at("no good")


@given(st.text(max_size=200))
def test_quoted_text_is_short_printable_ascii(text: str) -> None:
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 83


def test_quoted_text_says_that_it_was_cut() -> None:
    assert quoted("short\n") == r"'short\n'"
    assert quoted("x" * 1000).endswith("...")


def test_errors_show_little_of_what_callers_wrote() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_reference("\x1b[31m" * 100_000)
    assert len(caught.value.message) < 300
    assert "\x1b" not in caught.value.message


def test_any_beginning_of_a_name_is_a_prefix_and_nothing_else_is() -> None:
    for prefix in ("", "t", "team/", "team/c."):
        assert check_prefix(prefix) == prefix
    for prefix in ("calc:v1", "a b", "%", "a\0b", "a" * 256):
        with pytest.raises(InvalidRequest):
            check_prefix(prefix)


def test_a_digest_is_shown_with_its_algorithm() -> None:
    assert digest_reference(HEX) == "sha256:" + HEX
