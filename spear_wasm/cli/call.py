"""`spear-wasm call`: a function of an artifact, run by a server."""

from __future__ import annotations

from pathlib import Path

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.arguments import CallArguments, FunctionCommand, call_options
from spear_wasm.cli.options import address_option, format_option, utf8
from spear_wasm.cli.output import Output
from spear_wasm.cli.results import result_option, show_result, show_stream_end
from spear_wasm.cli.streaming import show_messages
from spear_wasm.client import CallResult, Client


@click.command(cls=FunctionCommand)
@click.argument("reference", metavar="REF", type=utf8)
@click.argument("function", type=utf8)
@call_options
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Attempts after the first, for faults of the server and what else the task retries.",
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
@address_option
@format_option
@click.pass_context
def call(  # noqa: PLR0913  one parameter for each option
    context: click.Context,
    *,
    reference: str,
    function: str,
    call: CallArguments,
    retries: int,
    mode: str | None,
    result_file: Path | None,
    address: str,
    output: Output,
) -> None:
    """Call a function of an artifact.

    REF is NAME, NAME:VERSION or sha256:HEX. Whether one of the ARGS is a number or text, the function's
    signature decides; behind `--` none of them is taken for an option. The result goes to standard output;
    logs, costs and errors go to standard error. With --stream, standard output gets what the function emits, and
    as JSON a document of a line for each message and one for the end.
    """
    if mode == "async":
        _submit(reference, function, call, address, output, retries=retries)
        return
    if mode == "stream":
        if retries:
            raise click.UsageError(
                "--retries and --stream exclude each other: what was emitted cannot be taken back"
            )
        result = _stream(reference, function, call, address, output)
        show_stream_end(output, result, result_file)
        context.exit(exit_codes.of_result(result))
    with Client(address) as client, output.waiting(f"waiting for {function}"):
        result = client.call(
            reference,
            function,
            *call.positional,
            parameters=call.named,
            timeout=call.timeout,
            limits=call.limits,
            max_retries=retries,
            check=False,
        )
    show_result(output, result, result_file)
    context.exit(exit_codes.of_result(result))


def _stream(reference: str, function: str, call: CallArguments, address: str, output: Output) -> CallResult:
    with (
        Client(address) as client,
        client.stream(
            reference,
            function,
            *call.positional,
            parameters=call.named,
            timeout=call.timeout,
            limits=call.limits,
            check=False,
        ) as messages,
    ):
        show_messages(output, messages)
        return messages.result


def _submit(
    reference: str, function: str, call: CallArguments, address: str, output: Output, *, retries: int
) -> None:
    with Client(address) as client:
        execution_id = client.submit(
            reference,
            function,
            *call.positional,
            parameters=call.named,
            timeout=call.timeout,
            limits=call.limits,
            max_retries=retries,
        )
    if output.json:
        output.document({"execution_id": execution_id})
    else:
        output.line(execution_id)
