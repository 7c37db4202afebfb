from __future__ import annotations

import struct
import zlib

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.api import function_pb2
from spear_wasm.cli.demo import preview
from spear_wasm.cli.documents import jsonable
from spear_wasm.cli.output import Output, printable
from spear_wasm.cli.png import png_of
from spear_wasm.cli.results import raw, shown


@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert set(printable(text, lines=True).replace("\n", "").replace("\t", "")) <= set(printable(text))


def test_what_can_be_seen_stays() -> None:
    assert printable("größer [bold] \\n 日本") == "größer [bold] \\n 日本"
    assert printable("a\tb\n", lines=True) == "a\tb\n"
    assert printable("a\tb\r\n\x1b\x7f\u202e\ud800") == "a\\tb\\r\\n\\x1b\\x7f\\u202e\\ud800"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (3, "3"),
        (0.1, "0.1"),
        (True, "true"),
        ("a\x1b", "a\\x1b"),
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"\x1b[2J", "4 B of binary data"),
        (b"\xff" * 2048, "2 KiB of binary data"),
        ([1, "ä\x9b", None], '[1, "ä\\x9b", null]'),
        ({"a": float("nan")}, '{"a": "NaN"}'),
    ],
)
def test_values_for_the_eye(value: object, text: str) -> None:
    assert shown(value) == text  # type: ignore[arg-type]  # a table of cases


@pytest.mark.parametrize(
    ("value", "content"), [(b"\x1b\0", b"\x1b\0"), ("a\x1b", b"a\x1b"), (3, b"3"), (None, b"")]
)
def test_values_for_files(value: object, content: bytes) -> None:
    assert raw(value) == content  # type: ignore[arg-type]  # a table of cases


def test_tables_on_a_terminal_are_drawn_and_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(json=False)
    monkeypatch.setattr(output, "is_terminal", True)
    output.table(("NAME", "SIZE"), [("[red]calc\x1b[31m[/red]", "1 KiB")])
    drawn = capsys.readouterr().out
    assert "[red]calc\\x1b[31m[/red]" in drawn
    assert "─" in drawn


def test_an_empty_table_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).table(("NAME", "SIZE"), [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


def test_messages_become_documents_with_every_field() -> None:
    config = Struct()
    config.update({"ready_sandboxes": 2})
    message = function_pb2.ArtifactSpec(
        artifact_id="calc", runtime_config=config, metadata={"a": "b"}, max_execution_timeout_ms=2**62
    )
    document = jsonable(message)
    assert document == {
        "artifact_id": "calc",
        "artifact_type": "",
        "location": "",
        "version": "",
        "checksum": "",
        "metadata": {"a": "b"},
        "description": "",
        "environment": {},
        "runtime_config": {"ready_sandboxes": 2},
        "resource_limits": None,
        "max_execution_timeout_ms": 2**62,
        "invocation_type": "INVOCATION_TYPE_UNKNOWN",
    }


# --- pictures -----------------------------------------------------------------------------------------------


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = [], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + data),)
        chunks.append((kind, data))
        at += 12 + length
    return chunks


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_png_holds_the_pixels_that_it_was_made_of(width: int, height: int, data: st.DataObject) -> None:
    rgb = data.draw(st.binary(min_size=width * height * 3, max_size=width * height * 3))
    (head, header), (body, packed), (tail, rest) = chunks_of(png_of(width, height, rgb))
    assert (head, body, tail, rest) == (b"IHDR", b"IDAT", b"IEND", b"")
    assert header == struct.pack(">II", width, height) + bytes((8, 2, 0, 0, 0))
    rows = zlib.decompress(packed)
    stride = width * 3 + 1
    assert len(rows) == stride * height
    assert all(rows[start] == 0 for start in range(0, len(rows), stride))
    assert b"".join(rows[start + 1 : start + stride] for start in range(0, len(rows), stride)) == rgb


@pytest.mark.parametrize(("width", "height", "rgb"), [(1, 1, b"ab"), (0, 1, b""), (2, 1, b"abc")])
def test_bytes_that_are_no_picture_are_refused(width: int, height: int, rgb: bytes) -> None:
    with pytest.raises(ValueError, match="no picture"):
        png_of(width, height, rgb)


def test_a_preview_is_as_wide_as_asked() -> None:
    lines = preview(96, 64, bytes(range(256)) * 72, columns=12).plain.strip("\n").splitlines()
    assert lines == ["▀" * 12] * 4
