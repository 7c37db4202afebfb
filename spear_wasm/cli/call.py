"""`spear-wasm call`: a function of an artifact, run by a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.arguments import CallArguments, FunctionCommand, call_options
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output
from spear_wasm.cli.results import result_option, show_result, show_stream_end
from spear_wasm.cli.streaming import show_messages
from spear_wasm.client import CallResult, Client, TaskTerms
from spear_wasm.model import PROGRAM_START


@click.command(cls=FunctionCommand)
@click.argument("reference", metavar="REF", type=utf8)
@click.argument("function", type=utf8, default=PROGRAM_START)
@call_options
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Attempts after the first, for faults of the server and what else the task retries.",
)
@click.option(
    "--task",
    "task_name",
    type=utf8,
    default="",
    metavar="NAME",
    help="A name for the task that is made of REF and what --set says; it has one unless said.",
)
@click.option(
    "--async",
    "mode",
    flag_value="async",
    help="Print the execution's ID and do not wait for it; `get` shows how it ends.",
)
@click.option(
    "--stream",
    "mode",
    flag_value="stream",
    help="Print what the function emits while it runs; its result is told on standard error.",
)
@result_option
@server_options
@format_option
@click.pass_context
def call(  # noqa: PLR0913  one parameter for each option
    context: click.Context,
    *,
    reference: str,
    function: str,
    call: CallArguments,
    retries: int,
    task_name: str,
    mode: str | None,
    result_file: Path | None,
    server: Server,
    output: Output,
) -> None:
    """Call a function of an artifact, or a program with ARGS.

    REF is NAME, NAME:VERSION or sha256:HEX. Of a program, what is no function's name is the first of the ARGS. Whether
    one of the ARGS is a number or text, the function's signature decides; behind `--` none of them is taken for an
    option. The result goes to standard output; logs, costs and errors go to standard error. With --stream, standard
    output gets what the function emits, and as JSON a document of a line for each message and one for the end.
    """
    with server.connect() as client:
        function, call = call.meant_by(client, reference, function)
        wanted = _Wanted(client, reference, function, call, retries, task_name)
        if mode == "async":
            _submit(wanted, output)
            return
        if mode == "stream":
            result = _stream(wanted, output)
            show_stream_end(output, result, result_file)
        else:
            result = _wait(wanted, output)
            show_result(output, result, result_file)
    context.exit(exit_codes.of_result(result))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call that is to be made."""

    client: Client
    reference: str
    function: str
    call: CallArguments
    retries: int
    task_name: str

    def terms(self) -> TaskTerms:
        """Everything that is said beside the function and its arguments."""
        return {
            **self.call.terms(),
            "max_retries": self.retries,
            "runtime_config": self.call.runtime_config,
            "task_name": self.task_name,
        }


def _wait(wanted: _Wanted, output: Output) -> CallResult:
    positional, named = wanted.call.of(wanted.function)
    with output.waiting(f"waiting for {wanted.function}"):
        return wanted.client.call(
            wanted.reference, wanted.function, *positional, parameters=named, check=False, **wanted.terms()
        )


def _stream(wanted: _Wanted, output: Output) -> CallResult:
    positional, named = wanted.call.of(wanted.function)
    with wanted.client.stream(
        wanted.reference, wanted.function, *positional, parameters=named, check=False, **wanted.terms()
    ) as messages:
        show_messages(output, messages)
        return messages.result


def _submit(wanted: _Wanted, output: Output) -> None:
    positional, named = wanted.call.of(wanted.function)
    execution_id = wanted.client.submit(
        wanted.reference, wanted.function, *positional, parameters=named, **wanted.terms()
    )
    if output.json:
        output.document({"execution_id": execution_id})
    else:
        output.line(execution_id)
