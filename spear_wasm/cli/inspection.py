"""`spear-wasm inspect`: what can be called in a module, what it imports, what it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

import click

from spear_wasm.cli.files import binary_of, inspected
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output
from spear_wasm.client.stubs import artifact_pb2
from spear_wasm.config import RuntimeConfig
from spear_wasm.errors import ConfigurationError, UnlinkableArtifact
from spear_wasm.model import (
    WASM_PAGE_BYTES,
    Field,
    FunctionExport,
    Import,
    ModuleInfo,
    Signature,
    ValueType,
)
from spear_wasm.units import format_duration, format_size


@click.command()
@click.argument("subject", metavar="REF|FILE", type=utf8)
@server_options
@format_option
def inspect(subject: str, server: Server, output: Output) -> None:
    """Show what a module offers and needs.

    A FILE is read here, without a server. What exists as a file is taken for one; write NAME:VERSION to mean
    the artifact.
    """
    file = Path(subject)
    if file.is_file():
        _show_file(output, file)
        return
    with server.connect() as client:
        _show_artifact(output, client.artifact(subject))


def _show_file(output: Output, file: Path) -> None:
    module = binary_of(file)
    info = inspected(module)
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    runtime, functions = _offered(info)
    if output.json:
        offered = {"runtime_type": runtime, "functions": [asdict(function) for function in functions]}
        document = {"file": str(file), "digest": digest, "size_bytes": len(module)}
        output.document(document | asdict(info) | offered)
        return
    facts = {
        "file": str(file),
        "digest": digest,
        "size": format_size(len(module)),
        "runtime": runtime or "none",
        "functions": f"{info.function_count}, offered: {len(functions)}",
        "memory": _memory_of(info),
        "tables": f"{info.table_elements} elements",
        "start function": "yes" if info.has_start else "no",
    }
    output.facts(facts)
    _show_functions(output, [_text_of(it.name, it.params, it.results) for it in functions])
    _show_imports(output, [(it.module, it.name, _described(it)) for it in info.imports])


def _show_artifact(output: Output, artifact: artifact_pb2.ArtifactInfo) -> None:
    if output.json:
        output.document({"artifact": artifact})
        return
    facts = {
        "name": artifact.name,
        "version": artifact.version,
        "digest": artifact.digest,
        "size": format_size(artifact.size_bytes),
        "runtime": artifact.runtime_type,
        "created (UTC)": artifact.created_at.ToDatetime().isoformat(" ", "seconds"),
        "compiled in": format_duration(artifact.compile_time_ms / 1000),
    }
    output.facts(facts | {f"label {name}": value for name, value in sorted(artifact.labels.items())})
    _show_functions(output, [_text_of(it.name, it.params, it.results) for it in artifact.functions])
    _show_imports(output, [(it.module, it.name, it.type) for it in artifact.imports])


def _show_functions(output: Output, signatures: Sequence[str]) -> None:
    output.heading("functions" if signatures else "no functions")
    for signature in signatures:
        output.line(f"  {signature}")


def _show_imports(output: Output, imports: Sequence[tuple[str, str, str]]) -> None:
    if imports:
        output.heading("imports")
        output.table(("MODULE", "NAME", "TYPE"), imports)


def _offered(info: ModuleInfo) -> tuple[str, Sequence[Signature]]:
    """The runtime that runs it here, and what that makes of it; no name, and what it exports, where none does."""
    from spear_wasm.runtime_manager import RuntimeManager  # noqa: PLC0415  brings the engine: see `serve`

    try:
        runtime = RuntimeManager(RuntimeConfig()).recognise(info)
    except (UnlinkableArtifact, ConfigurationError):  # the latter where a runtime that is installed is broken
        return "", _exported(info)
    return runtime.name, runtime.signatures(info)


def _exported(info: ModuleInfo) -> list[Signature]:
    from spear_wasm.component_functions import callable_functions  # noqa: PLC0415  the same

    if info.component is None:
        return [_signature_of(export) for export in info.functions]
    return [function.signature for function in callable_functions(info.component)]


def _signature_of(export: FunctionExport) -> Signature:
    names = zip_longest(export.param_names, export.type.params, fillvalue="")
    params = tuple(Field(name, ValueType(kind)) for name, kind in names)
    return Signature(export.name, params, tuple(Field("", kind) for kind in export.type.results))


def _text_of(
    name: str,
    params: Iterable[Field | artifact_pb2.ValueField],
    results: Iterable[Field | artifact_pb2.ValueField],
) -> str:
    taken = ", ".join(f"{field.name}: {field.type}" if field.name else field.type for field in params)
    given = ", ".join(field.type for field in results)
    return f"{name}({taken}) -> {given or 'nothing'}"


def _described(needed: Import) -> str:
    """Its kind and its type; the types of components say both."""
    return needed.type if needed.type.startswith(needed.kind) else f"{needed.kind} {needed.type}"


def _memory_of(info: ModuleInfo) -> str:
    if not info.has_memory:
        return "none"
    least = format_size(info.memory_min_pages * WASM_PAGE_BYTES)
    if info.memory_max_pages is None:
        return f"{least}, may grow"
    return f"{least}, may grow to {format_size(info.memory_max_pages * WASM_PAGE_BYTES)}"
