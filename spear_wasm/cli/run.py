"""`spear-wasm run`: a function of a module in a file, run in this process, without a server."""

from __future__ import annotations

from pathlib import Path

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.arguments import CallArguments, FunctionCommand, call_options
from spear_wasm.cli.files import binary_of
from spear_wasm.cli.options import format_option, utf8
from spear_wasm.cli.output import Output, printable
from spear_wasm.cli.results import result_option, show_result
from spear_wasm.model import PROGRAM_START


@click.command(cls=FunctionCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("function", type=utf8, default=PROGRAM_START)
@call_options
@result_option
@format_option
@click.pass_context
def run(
    context: click.Context,
    *,
    file: Path,
    function: str,
    call: CallArguments,
    result_file: Path | None,
    output: Output,
) -> None:
    """Run a function of a module, or a program with ARGS, without a server.

    FILE is binary or text. Of a program, what is no function's name is the first of the ARGS. Everything else is as
    with `call`: sandbox, limits, figures and exit codes.
    """
    from spear_wasm.cli.in_process import call_once  # noqa: PLC0415  brings the engine: see `serve`

    module = binary_of(file)
    result = call_once(printable(file.name).strip(), module, function, call)
    show_result(output, result, result_file)
    context.exit(exit_codes.of_result(result))
