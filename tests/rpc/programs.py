"""WASI guests on a server, for tests over its socket."""

from __future__ import annotations

import lzma
from functools import cache
from typing import Any

from spear_wasm.api import function_pb2 as pb
from spear_wasm.client.values import Argument, encode
from tests.rpc.serving import FIXTURES, Server, fresh, parameters


@cache
def program(name: str = "program") -> bytes:
    path = FIXTURES.parent / "wasi" / f"{name}.wasm"
    return path.read_bytes() if path.exists() else lzma.decompress(path.with_suffix(".wasm.xz").read_bytes())


def named(**values: Argument) -> list[pb.FunctionParameter]:
    return [pb.FunctionParameter(name=name, value=encode(value)) for name, value in values.items()]


def run(
    server: Server,
    *arguments: Argument,
    artifact: str = "program",
    stdin: Argument = None,
    config: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **fields: Any,
) -> pb.InvokeFunctionResponse:
    """Run a program; in a task of its own where that has a config or an environment."""
    spec = pb.ArtifactSpec(artifact_id=artifact, environment=environment)
    if config or environment:
        fields.setdefault("task_name", fresh("task"))
        spec.runtime_config.update(config or {})
    given = parameters(*arguments) + ([] if stdin is None else named(stdin=stdin))
    return server.invoke(artifact_spec=spec, function_name="_start", parameters=given, **fields)
