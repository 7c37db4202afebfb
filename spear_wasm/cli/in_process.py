"""One call in a host of its own, which is gone afterwards."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from spear_wasm.cli.arguments import CallArguments
from spear_wasm.client.result import CallResult, result_of
from spear_wasm.config import (
    Config,
    EngineConfig,
    InstancePoolConfig,
    LogConfig,
    TaskExecutionManagerConfig,
)
from spear_wasm.execution.execution import Call, Execution
from spear_wasm.execution.task import ArtifactSpec, Task
from spear_wasm.host import Host, open_host
from spear_wasm.logs import configure_logs
from spear_wasm.model import Parameter
from spear_wasm.rpc.convert import invoke_response

_CONFIG = Config(
    engine=EngineConfig(sandboxes=2),
    execution=TaskExecutionManagerConfig(max_running=1, threads=1),
    pool=InstancePoolConfig(max_ready=1, max_ready_per_task=1),
    log=LogConfig(format="console", level="error"),
)


def call_once(name: str, module: bytes, function: str, call: CallArguments) -> CallResult:
    """Call a function of a module as a server would, with the limits of one that is not configured.

    Raises:
        SpearError: the call cannot be carried out.
    """
    configure_logs(_CONFIG.log)
    with (
        tempfile.TemporaryDirectory(prefix="spear-wasm-run-") as folder,
        open_host(_CONFIG, Path(folder)) as host,
    ):
        parameters = [Parameter(value) for value in call.positional]
        parameters += [Parameter(value, name) for name, value in call.named.items()]
        task = _task_of(host, name, module, call)
        execution = host.manager.submit(Call(task, function, parameters))
        _await(host, execution)
        return result_of(invoke_response(execution))


def _task_of(host: Host, name: str, module: bytes, call: CallArguments) -> Task:
    with host.artifacts.begin_upload("", "", "", len(module), {}) as upload:
        upload.write(module)
        artifact, _ = upload.finish()
    spec = ArtifactSpec(
        artifact_id=f"sha256:{artifact.digest}",
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
