"""`spear-wasm push`, `list` and `rm`: which modules a server has, and away with them, or with tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spear_wasm.cli.files import source_of
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output, printable
from spear_wasm.units import format_size


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME[:VERSION]]", type=utf8, required=False)
@server_options
@format_option
def push(file: Path, name: str | None, server: Server, output: Output) -> None:
    """Upload a module.

    FILE is binary or text. NAME is the file's own without its suffix, unless it is given; VERSION is the
    beginning of its digest.
    """
    name, _, version = (name or file.stem).partition(":")
    source = source_of(file)
    with server.connect() as client, _progress_of(output, name) as progress:
        bar = progress.add_task("", total=None)
        answer = client.upload(
            source,
            name=name,
            version=version,
            progress=lambda sent, total: progress.update(bar, completed=sent, total=total),
        )
    if output.json:
        output.document({"artifact": answer.artifact, "created": answer.created})
        return
    artifact = answer.artifact
    output.line(f"{artifact.name}:{artifact.version}  {artifact.digest}")
    known = "" if answer.created else ", here already"
    output.note(f"{format_size(artifact.size_bytes)}, functions: {len(artifact.functions)}{known}")


@click.command("list")
@click.argument("prefix", type=utf8, default="")
@server_options
@format_option
def list_artifacts(prefix: str, server: Server, output: Output) -> None:
    """List artifacts, oldest first.

    PREFIX is what their names begin with.
    """
    with server.connect() as client:
        artifacts = list(client.artifacts(prefix))
    if output.json:
        output.document({"artifacts": artifacts})
        return
    rows = [
        (
            artifact.name,
            artifact.version,
            format_size(artifact.size_bytes),
            artifact.runtime_type,
            str(len(artifact.functions)),
            artifact.created_at.ToDatetime().isoformat(" ", "seconds"),
            artifact.digest[:19],
        )
        for artifact in artifacts
    ]
    output.table(("NAME", "VERSION", "SIZE", "RUNTIME", "FUNCTIONS", "CREATED (UTC)", "DIGEST"), rows)


@click.command()
@click.argument("reference", metavar="REF", type=utf8)
@click.option("--task", "is_task", is_flag=True, help="REF is a task, by its name or ID.")
@click.option(
    "--force",
    is_flag=True,
    help="Although tasks refer to it, which fail from then on; a task although it has executions, which end.",
)
@server_options
@format_option
def rm(*, reference: str, is_task: bool, force: bool, server: Server, output: Output) -> None:
    """Remove an artifact, or a task.

    REF is NAME, NAME:VERSION or sha256:HEX.
    """
    with server.connect() as client:
        delete = client.delete_task if is_task else client.delete_artifact
        deleted = delete(reference, force=force)
    if output.json:
        output.document({"deleted": deleted})
    else:
        output.note(f"removed {reference}" if deleted else f"{reference} was not there")


def _progress_of(output: Output, name: str) -> Progress:
    """A bar on standard error, where that is a terminal."""
    return Progress(
        TextColumn(printable(name), markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=output.aside,
        transient=True,
        disable=output.json or not sys.stderr.isatty(),
    )
