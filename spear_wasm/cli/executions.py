"""`spear-wasm get`, `logs`, `cancel` and `executions`: what became of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from spear_wasm.cli import exit_codes, watching
from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output
from spear_wasm.cli.results import result_option, show_result, wall_time
from spear_wasm.cli.watching import check_watchable, watch_option
from spear_wasm.client import CallResult, Client
from spear_wasm.client.stubs import function_pb2
from spear_wasm.model import ExecutionStatus

_COLUMNS: Final = ("ID", "FUNCTION", "MODE", "STATUS", "STARTED (UTC)", "TIME", "ERROR")


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--wait", is_flag=True, help="Until it has ended.")
@result_option
@server_options
@format_option
@click.pass_context
def get(
    context: click.Context,
    *,
    execution_id: str,
    wait: bool,
    result_file: Path | None,
    server: Server,
    output: Output,
) -> None:
    """Show how an execution is, or how it ended.

    An execution that ended is shown as `call` would have shown it.
    """
    with server.connect() as client:
        result = _result(client, execution_id, output, until_end=wait)
    if result.ended or output.json:
        show_result(output, result, result_file if result.ended else None)
    else:
        output.line(result.status)
    context.exit(exit_codes.of_result(result) if result.ended else ExitCode.OK)


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--follow", is_flag=True, help="As it is written, until the execution has ended.")
@server_options
@format_option
@click.pass_context
def logs(context: click.Context, *, execution_id: str, follow: bool, server: Server, output: Output) -> None:
    """Print what the guest of an execution wrote to its log.

    The exit code is 0 whatever became of the execution; `get` tells that.
    """
    with server.connect() as client:
        if follow and not output.json:
            output.pieces(client.follow_log(execution_id))
        result = _result(client, execution_id, output, until_end=follow)
    written = result.stdout + result.logs
    if output.json:
        lines = written.decode(errors="backslashreplace").splitlines()
        output.document({"execution_id": execution_id, "status": result.status.value, "logs": lines})
    else:
        output.pieces([result.stdout if follow else written])
        _note_about_logs(output, result)
    context.exit(ExitCode.OK)


def _result(client: Client, execution_id: str, output: Output, *, until_end: bool) -> CallResult:
    if not until_end:
        return client.execution(execution_id)
    with output.waiting(f"waiting for {execution_id}") as show:
        return client.wait(
            execution_id,
            check=False,
            progress=lambda result: show(f"{execution_id} is {_progress_of(result)}"),
        )


def _progress_of(result: CallResult) -> str:
    return result.status if result.attempts <= 1 else f"{result.status}, attempt {result.attempts}"


def _note_about_logs(output: Output, result: CallResult) -> None:
    if result.output_truncated:
        output.note("the log was cut at its limit")
    if not result.ended:
        output.note(f"the execution is {result.status}; --follow shows what is still to come")


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--reason", type=utf8, default="", help="Goes into the execution's error message.")
@click.option("--force", is_flag=True, help="Do not wait until the guest is stopped.")
@server_options
@format_option
@click.pass_context
def cancel(
    context: click.Context, *, execution_id: str, reason: str, force: bool, server: Server, output: Output
) -> None:
    """End an execution that waits or runs.

    The exit code is 2 where it had ended before.
    """
    with server.connect() as client:
        answer = client.cancel(execution_id, reason, force=force)
    if output.json:
        output.document({"cancellation": answer})
    elif answer.success:
        output.note(answer.message)
    else:
        output.error(answer.message)
    context.exit(ExitCode.OK if answer.success else ExitCode.CALLERS_MISTAKE)


@click.command()
@click.argument("task", type=utf8, default="")
@click.option(
    "--status",
    type=click.Choice([status.value for status in ExecutionStatus], case_sensitive=False),
    help="Only those.",
)
@watch_option
@server_options
@format_option
def executions(*, task: str, status: str | None, watch: bool, server: Server, output: Output) -> None:
    """List executions, oldest first; with --watch those that run or wait, unless a status is named.

    TASK is the id or name of the task that they are of.
    """
    wanted: list[ExecutionStatus | None] = [ExecutionStatus(status) if status else None]
    if watch:
        check_watchable(output)
        if not status:
            wanted = [ExecutionStatus.RUNNING, ExecutionStatus.PENDING]
    with server.connect() as client:

        def fetched() -> list[function_pb2.ExecutionInfo]:
            return [execution for each in wanted for execution in client.executions(task, each)]

        if watch:
            watching.watch(output, _COLUMNS, lambda: map(_row_of, fetched()))
        found = fetched()
    if output.json:
        output.document({"executions": found})
    else:
        output.table(_COLUMNS, map(_row_of, found))


def _row_of(execution: function_pb2.ExecutionInfo) -> tuple[str, ...]:
    mode = function_pb2.ExecutionMode.Name(execution.execution_mode)
    status = function_pb2.ExecutionStatus.Name(execution.status)
    started = execution.HasField("started_at")
    return (
        execution.execution_id,
        execution.function_name,
        mode.removeprefix("EXECUTION_MODE_"),
        status.removeprefix("EXECUTION_STATUS_"),
        execution.started_at.ToDatetime().isoformat(" ", "seconds") if started else "",
        wall_time(execution.execution_time_ms) if started else "",
        execution.error_message,
    )
