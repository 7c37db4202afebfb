"""The command line. A command is a function in the module of its group; errors become exit codes here."""

from __future__ import annotations

import errno
import functools
import os

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.artifacts import list_artifacts, push, rm
from spear_wasm.cli.bench import bench
from spear_wasm.cli.call import call
from spear_wasm.cli.completion import PROGRAM, completion
from spear_wasm.cli.configuration import config
from spear_wasm.cli.executions import cancel, executions, get, logs
from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.inspection import inspect
from spear_wasm.cli.options import OUTPUT, Command
from spear_wasm.cli.output import Output
from spear_wasm.cli.run import run
from spear_wasm.cli.serve import serve
from spear_wasm.cli.service import health, stats, tasks
from spear_wasm.config_sources import VARIABLE_PREFIX, refuse_unknown_variables
from spear_wasm.errors import SpearError


class _Commands(click.Group):
    """Commands that end with one of our exit codes, whatever goes wrong."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SpearError as error:
            exit_code = exit_codes.of_error(error)
            _output_of(ctx).refusal(error, exit_code)
        except KeyboardInterrupt:
            exit_code = ExitCode.INTERRUPTED
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click knows what to do when nobody reads on
            _output_of(ctx).error(_reason_of(error))
            exit_code = ExitCode.CALLERS_MISTAKE
        raise click.exceptions.Exit(exit_code)


def _output_of(context: click.Context) -> Output:
    output = context.meta.get(OUTPUT)
    return output if isinstance(output, Output) else Output(json=False)


def _reason_of(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


@click.group(
    cls=_Commands,
    epilog=exit_codes.EXPLAINED,
    context_settings={"auto_envvar_prefix": "SPEAR_WASM", "help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def commands() -> None:
    """Upload WebAssembly modules, call their functions, and know what each call cost.

    Every option can be given in the environment, too: --timeout of `call` as SPEAR_WASM_CALL_TIMEOUT, --addr
    of all as SPEAR_WASM_ADDR.
    """


_COMMANDS = (
    serve, config, push, list_artifacts, inspect, rm, call, get, logs, cancel, executions, run, bench, tasks, health,
    stats, completion,
)  # fmt: skip


def _variables_of_options() -> set[str]:
    """The variables that stand for options, those of the configuration aside."""
    found: set[str] = set()
    for command in _COMMANDS:
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                found.add(parameter.envvar)
            elif isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
                found.add(f"{VARIABLE_PREFIX}{command.name}_{parameter.name}".upper().replace("-", "_"))
    return found


def _in_known_environment(command: Command) -> Command:
    """The command, refused where the environment holds a variable of ours that says nothing to anybody."""

    @functools.wraps(command)
    def checked(*args: object, **options: object) -> None:
        refuse_unknown_variables(os.environ, _variables_of_options())
        command(*args, **options)

    return checked


for _command in _COMMANDS:
    assert _command.callback is not None
    _command.callback = _in_known_environment(_command.callback)
    commands.add_command(_command)


def main() -> None:
    """Run the command line of this process, and end it."""
    commands(prog_name=PROGRAM)
