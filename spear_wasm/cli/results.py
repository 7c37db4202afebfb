"""How the end of a call is shown: its value, its failure, its logs and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import click

from spear_wasm.cli.documents import jsonable
from spear_wasm.cli.options import Command
from spear_wasm.cli.output import Output, printable
from spear_wasm.client import CallResult
from spear_wasm.model import Json
from spear_wasm.units import format_duration, format_size

Value: TypeAlias = "Json | bytes"


result_option: Callable[[Command], Command] = click.option(
    "-o",
    "--output",
    "result_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result there, bytes as they are.",
)


def show_result(output: Output, result: CallResult, file: Path | None) -> None:
    """Print a result; its value goes into `file` instead, where there is one."""
    if file is not None and result.ok:
        file.write_bytes(raw(result.value))
    if output.json:
        output.document(_document(result, saved=file is not None))
        return
    _show_logs(output, result)
    if not result.ok:
        _show_failure(output, result)
    elif file is None:
        _show_value(output, result.value)
    output.note(cost(result))


def show_stream_end(output: Output, result: CallResult, file: Path | None) -> None:
    """Print how a streamed call ended, aside: standard output has what it emitted."""
    if file is not None and result.ok:
        file.write_bytes(raw(result.value))
    if output.json:
        output.document_line({"result": _document(result, saved=file is not None)})
        return
    _show_logs(output, result)
    if not result.ok:
        _show_failure(output, result)
    elif file is None and result.value is not None:
        output.note(f"result: {shown(result.value)}")
    output.note(cost(result))


def cost(result: CallResult) -> str:
    """What a call cost, in a line."""
    parts = [
        f"cpu {format_duration(result.cpu_time_ms / 1000)}",
        f"wall {wall_time(result.execution_time_ms)}",
        f"queue {format_duration(result.queue_time_ms / 1000)}",
    ]
    if result.memory_used_bytes:  # else there is none, or, with components, nobody knows
        parts.append(f"peak memory {format_size(result.memory_used_bytes)}")
    if result.fuel_used:
        parts.append(f"fuel {result.fuel_used:,}")
    if result.attempts > 1:
        parts.append(f"attempts {result.attempts:,}")
    return " · ".join(parts)


def wall_time(milliseconds: int) -> str:
    """A time from start to end, which is told in whole milliseconds."""
    return format_duration(milliseconds / 1000) if milliseconds else "< 1 ms"


def shown(value: Value) -> str:
    """A value for a person's eyes, safe on a terminal; bytes that are no text become a summary."""
    match value:
        case None:
            return ""
        case bytes():
            text = _text_in(value)
            return (
                f"{format_size(len(value))} of binary data" if text is None else printable(text, lines=True)
            )
        case str():
            return printable(value, lines=True)
        case bool() | list() | dict():
            return printable(json.dumps(jsonable(value), ensure_ascii=False))
        case _:
            return str(value)


def raw(value: Value) -> bytes:
    """A value as a file or a pipe gets it: bytes and text as they are, anything else as it is shown."""
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case _:
            return shown(value).encode()


def _show_value(output: Output, value: Value) -> None:
    if value is None:
        return
    if output.is_terminal:
        click.echo(shown(value))
        if isinstance(value, bytes) and _text_in(value) is None:
            output.note("save it with -o FILE, or pipe it on")
    else:
        click.echo(raw(value), nl=not isinstance(value, bytes))


def _text_in(value: bytes) -> str | None:
    """The text that bytes are, where all of it can be seen."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    visible = all(character.isprintable() or character in "\n\t\r" for character in text)
    return text if visible else None


def _show_logs(output: Output, result: CallResult) -> None:
    printed = b"" if result.stdout == result.value else result.stdout  # a program's output is its result
    for stream in (printed, result.logs):
        if stream:
            text = printable(stream.decode(errors="backslashreplace"), lines=True)
            click.echo(text, err=True, nl=not text.endswith("\n"))
    if result.output_truncated:
        output.note("the guest wrote more than it may; the rest is cut")


def _show_failure(output: Output, result: CallResult) -> None:
    output.error(result.error_message or "no reason given", label=result.error_code or result.status)
    for frame in result.trap_frames:
        output.note(f"  at {frame}")


def _document(result: CallResult, *, saved: bool) -> dict[str, object]:
    return {
        "ok": result.ok,
        "status": result.status,
        "value": None if saved else result.value,
        "value_type": _type_name(result.value),
        "error_code": result.error_code or None,
        "error_message": result.error_message or None,
        "trap_frames": result.trap_frames,
        "exit_code": result.exit_code,
        "stdout": result.stdout.decode(errors="backslashreplace"),
        "logs": result.logs.decode(errors="backslashreplace"),
        "output_truncated": result.output_truncated,
        "cpu_time_ms": result.cpu_time_ms,
        "execution_time_ms": result.execution_time_ms,
        "queue_time_ms": result.queue_time_ms,
        "fuel_used": result.fuel_used,
        "memory_used_bytes": result.memory_used_bytes,
        "attempts": result.attempts,
        "execution_id": result.execution_id,
        "task_id": result.task_id,
        "instance_id": result.instance_id,
    }


def _type_name(value: Value) -> str:
    """What a document's `value` stands for; `bytes` are base64 there."""
    names = {
        bytes: "bytes",
        str: "string",
        bool: "bool",
        int: "int",
        float: "float",
        list: "list",
        dict: "object",
    }
    return names.get(type(value), "null")
