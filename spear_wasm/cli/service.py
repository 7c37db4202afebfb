"""`spear-wasm tasks`, `health` and `stats`: how a server is doing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import click

from spear_wasm.cli import watching
from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output
from spear_wasm.cli.watching import check_watchable, watch_option
from spear_wasm.client.stubs import function_pb2
from spear_wasm.units import format_duration, format_size

_TASK_COLUMNS: Final = (
    "NAME", "ARTIFACT", "RUNNING", "WAITING", "EXECUTIONS", "LAST STATUS", "UPDATED (UTC)", "ID",
)  # fmt: skip


@click.command()
@click.argument("prefix", type=utf8, default="")
@watch_option
@server_options
@format_option
def tasks(*, prefix: str, watch: bool, server: Server, output: Output) -> None:
    """List tasks, oldest first.

    PREFIX is what their names begin with.
    """
    if watch:
        check_watchable(output)
    with server.connect() as client:
        if watch:
            watching.watch(output, _TASK_COLUMNS, lambda: map(_row_of, client.tasks(prefix)))
        found = list(client.tasks(prefix))
    if output.json:
        output.document({"tasks": found})
    else:
        output.table(_TASK_COLUMNS, map(_row_of, found))


@click.command()
@server_options
@format_option
@click.pass_context
def health(context: click.Context, *, server: Server, output: Output) -> None:
    """Say whether a server is fit for work.

    The exit code is 3 where it is not.
    """
    with server.connect() as client:
        answer = client.health()
    if output.json:
        output.document({"health": answer})
    else:
        output.facts(health_facts(answer))
    context.exit(ExitCode.SERVER_FAILED if answer.status == "unhealthy" else ExitCode.OK)


@click.command()
@server_options
@format_option
def stats(server: Server, output: Output) -> None:
    """Show what a server has done."""
    with server.connect() as client:
        answer = client.stats()
    if output.json:
        output.document({"stats": answer})
    else:
        output.facts(stats_facts(answer))


def health_facts(answer: function_pb2.GetHealthResponse) -> dict[str, str]:
    """A server's health for people."""
    details = answer.details
    workers = {key: text for key, text in sorted(details.system_info.items()) if key.startswith("worker.")}
    return {
        "status": f"{answer.status}, {answer.message}" if answer.message else answer.status,
        "server": f"{details.service_name} {details.version}",
        "uptime": format_duration(details.uptime_seconds),
        "memory": format_size(details.total_memory_used),
        "CPU": f"{details.cpu_usage_percent:.1f} % of a core",
        "running": str(details.running_executions),
        "waiting": str(details.pending_executions),
        "active tasks": str(details.active_tasks),
        **{key.replace(".", " "): text for key, text in workers.items()},
    }


def stats_facts(answer: function_pb2.GetStatsResponse) -> dict[str, str]:
    """A server's counters for people."""
    counted = answer.function_service_stats
    return {
        "uptime": format_duration(answer.service_stats.uptime_seconds),
        "artifacts": str(counted.artifact_count),
        "tasks": str(counted.task_count),
        "sandboxes": str(counted.instance_count),
        "executions": f"{counted.execution_count:,}",
        "  successful": f"{counted.successful_executions:,}",
        "  failed": f"{counted.failed_executions:,}",
        "  running": str(counted.running_executions),
        "mean response": format_duration(counted.average_response_time_ms / 1000),
    }


def _row_of(task: function_pb2.TaskInfo) -> tuple[str, ...]:
    status = function_pb2.ExecutionStatus.Name(task.last_status).removeprefix("EXECUTION_STATUS_")
    updated = datetime.fromtimestamp(task.updated_at / 1000, UTC)
    return (
        task.task_name,
        f"{task.artifact_spec.artifact_id}:{task.artifact_spec.version}".rstrip(":"),
        str(task.running_executions),
        str(task.pending_executions),
        str(task.execution_count),
        "" if status == "UNKNOWN" else status,
        updated.strftime("%Y-%m-%d %H:%M:%S"),
        task.task_id,
    )
