"""`spear-wasm tasks`, `health` and `stats`: how a server is doing."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.options import address_option, format_option, utf8
from spear_wasm.cli.output import Output
from spear_wasm.client import Client
from spear_wasm.client.stubs import function_pb2
from spear_wasm.units import format_duration, format_size


@click.command()
@click.argument("prefix", type=utf8, default="")
@address_option
@format_option
def tasks(prefix: str, address: str, output: Output) -> None:
    """List tasks, oldest first.

    PREFIX is what their names begin with.
    """
    with Client(address) as client:
        found = list(client.tasks(prefix))
    if output.json:
        output.document({"tasks": found})
        return
    columns = ("NAME", "ARTIFACT", "EXECUTIONS", "LAST STATUS", "UPDATED (UTC)", "ID")
    output.table(columns, [_row_of(task) for task in found])


@click.command()
@address_option
@format_option
@click.pass_context
def health(context: click.Context, *, address: str, output: Output) -> None:
    """Say whether a server is fit for work.

    The exit code is 3 where it is not.
    """
    with Client(address) as client:
        answer = client.health()
    if output.json:
        output.document({"health": answer})
    else:
        output.facts(health_facts(answer))
    context.exit(ExitCode.SERVER_FAILED if answer.status == "unhealthy" else ExitCode.OK)


@click.command()
@address_option
@format_option
def stats(address: str, output: Output) -> None:
    """Show what a server has done."""
    with Client(address) as client:
        answer = client.stats()
    if output.json:
        output.document({"stats": answer})
    else:
        output.facts(stats_facts(answer))


def health_facts(answer: function_pb2.GetHealthResponse) -> dict[str, str]:
    """A server's health for people."""
    details = answer.details
    return {
        "status": f"{answer.status}, {answer.message}" if answer.message else answer.status,
        "server": f"{details.service_name} {details.version}",
        "uptime": format_duration(details.uptime_seconds),
        "memory": format_size(details.total_memory_used),
        "CPU": f"{details.cpu_usage_percent:.1f} % of a core",
        "running": str(details.running_executions),
        "waiting": str(details.pending_executions),
        "active tasks": str(details.active_tasks),
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
        str(task.execution_count),
        "" if status == "UNKNOWN" else status,
        updated.strftime("%Y-%m-%d %H:%M:%S"),
        task.task_id,
    )
