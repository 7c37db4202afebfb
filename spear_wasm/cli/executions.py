"""`spear-wasm get`, `logs`, `cancel` and `executions`: what became of calls."""

from __future__ import annotations

from pathlib import Path

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.options import address_option, format_option, utf8
from spear_wasm.cli.output import Output
from spear_wasm.cli.results import result_option, show_result, wall_time
from spear_wasm.client import CallResult, Client
from spear_wasm.client.stubs import function_pb2
from spear_wasm.model import ExecutionStatus


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--wait", is_flag=True, help="Until it has ended.")
@result_option
@address_option
@format_option
@click.pass_context
def get(
    context: click.Context,
    *,
    execution_id: str,
    wait: bool,
    result_file: Path | None,
    address: str,
    output: Output,
) -> None:
    """Show how an execution is, or how it ended.

    An execution that ended is shown as `call` would have shown it.
    """
    with Client(address) as client:
        result = _result(client, execution_id, output, until_end=wait)
    if result.ended or output.json:
        show_result(output, result, result_file if result.ended else None)
    else:
        output.line(result.status)
    context.exit(exit_codes.of_result(result) if result.ended else ExitCode.OK)


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--follow", is_flag=True, help="Until it has ended.")
@address_option
@format_option
@click.pass_context
def logs(context: click.Context, *, execution_id: str, follow: bool, address: str, output: Output) -> None:
    """Print what the guest of an execution wrote to its log.

    The exit code is 0 whatever became of the execution; `get` tells that.
    """
    with Client(address) as client:
        result = _result(client, execution_id, output, until_end=follow)
    written = (result.stdout + result.logs).decode(errors="backslashreplace").splitlines()
    if output.json:
        output.document({"execution_id": execution_id, "status": result.status.value, "logs": written})
    else:
        for line in written:
            output.line(line)
        _note_about_logs(output, result)
    context.exit(ExitCode.OK)


def _result(client: Client, execution_id: str, output: Output, *, until_end: bool) -> CallResult:
    if not until_end:
        return client.execution(execution_id)
    with output.waiting(f"waiting for {execution_id}"):
        return client.wait(execution_id, check=False)


def _note_about_logs(output: Output, result: CallResult) -> None:
    if result.output_truncated:
        output.note("the log was cut at its limit")
    if not result.ended:
        output.note(f"the execution is {result.status}; its log is kept when it ends")


@click.command()
@click.argument("execution_id", metavar="ID", type=utf8)
@click.option("--reason", type=utf8, default="", help="Goes into the execution's error message.")
@click.option("--force", is_flag=True, help="Do not wait until the guest is stopped.")
@address_option
@format_option
@click.pass_context
def cancel(
    context: click.Context, *, execution_id: str, reason: str, force: bool, address: str, output: Output
) -> None:
    """End an execution that waits or runs.

    The exit code is 2 where it had ended before.
    """
    with Client(address) as client:
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
@address_option
@format_option
def executions(task: str, status: str | None, address: str, output: Output) -> None:
    """List executions, oldest first.

    TASK is the id or name of the task that they are of.
    """
    with Client(address) as client:
        found = list(client.executions(task, ExecutionStatus(status) if status else None))
    if output.json:
        output.document({"executions": found})
        return
    columns = ("ID", "FUNCTION", "MODE", "STATUS", "STARTED (UTC)", "TIME", "ERROR")
    output.table(columns, [_row_of(execution) for execution in found])


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
