"""`spear-wasm completion`: what a shell needs to complete our command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "spear-wasm"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  eval "$(spear-wasm completion bash)"
    zsh:   eval "$(spear-wasm completion zsh)"
    fish:  spear-wasm completion fish | source
    """  # noqa: D301  click wants the character that keeps lines apart, not two
    complete = get_completion_class(shell)
    assert complete is not None  # the choice above holds only shells that click knows
    script = complete(
        context.find_root().command, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    )
    click.echo(script.source())
