"""One call in a host of its own, which is gone afterwards."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from spear_wasm.artifacts.store import StoredArtifact
from spear_wasm.cli.arguments import CallArguments
from spear_wasm.client.result import CallResult, result_of
from spear_wasm.config import (
    Config,
    EngineConfig,
    InstancePoolConfig,
    LogConfig,
    RuntimeConfig,
    Size,
    TaskExecutionManagerConfig,
)
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.task import ArtifactSpec, Task
from spear_wasm.host import Host, open_host
from spear_wasm.logs import configure_logs
from spear_wasm.model import Parameter
from spear_wasm.rpc.executions import ended_response

_CONFIG = Config(
    engine=EngineConfig(sandboxes=2),
    execution=TaskExecutionManagerConfig(max_running=1, threads=1),
    pool=InstancePoolConfig(max_ready=1, max_ready_per_task=1),
    # Who runs a guest here is the operator, too: it has what the command line grants.
    runtimes=RuntimeConfig(writable_directories=("/",), max_scratch=Size(2**63 - 1), http_hosts=("*",)),
    log=LogConfig(format="console", level="error"),
)


def call_once(name: str, module: bytes, word: str, call: CallArguments) -> CallResult:
    """Call a function of a module as a server would, with the limits of one that is not configured.

    `word` names it; of a program, what is no function's name is the first of its arguments.

    Raises:
        SpearError: the call cannot be carried out.
    """
    configure_logs(_CONFIG.log)
    with (
        tempfile.TemporaryDirectory(prefix="spear-wasm-run-") as folder,
        open_host(_CONFIG, Path(folder)) as host,
    ):
        artifact = _stored(host, module)
        signatures = host.runtimes.recognise(artifact.module).signatures(artifact.module)
        function, call = call.meant(word, {each.name for each in signatures})
        positional, named = call.of(function)
        parameters = [Parameter(value) for value in positional]
        parameters += [Parameter(value, name) for name, value in named.items()]
        task = _task_of(host, name, artifact, call)
        execution = host.manager.submit(Call(task, function, parameters, environment=call.environment))
        _await(host, execution)
        return result_of(ended_response(execution))


def _stored(host: Host, module: bytes) -> StoredArtifact:
    with host.artifacts.begin_upload("", "", "", len(module), {}) as upload:
        upload.write(module)
        return upload.finish()[0]


def _task_of(host: Host, name: str, artifact: StoredArtifact, call: CallArguments) -> Task:
    spec = ArtifactSpec(
        artifact_id=f"sha256:{artifact.digest}",
        runtime_config=dict(call.runtime_config),
        resource_limits=call.limits,
        max_execution_timeout_ms=math.ceil((call.timeout or 0) * 1000),
    )
    return host.registration.register(spec, name)


def _await(host: Host, execution: Execution) -> None:
    try:
        execution.wait()
    except KeyboardInterrupt:
        host.manager.cancel(execution, "interrupted")
        raise
