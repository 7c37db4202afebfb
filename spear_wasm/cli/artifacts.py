"""`spear-wasm push`, `list` and `rm`: which modules a server has."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spear_wasm.cli.files import source_of
from spear_wasm.cli.options import address_option, format_option, utf8
from spear_wasm.cli.output import Output, printable
from spear_wasm.client import Client
from spear_wasm.units import format_size


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME[:VERSION]]", type=utf8, required=False)
@address_option
@format_option
def push(file: Path, name: str | None, address: str, output: Output) -> None:
    """Upload a module.

    FILE is binary or text. NAME is the file's own without its suffix, unless it is given; VERSION is the
    beginning of its digest.
    """
    name, _, version = (name or file.stem).partition(":")
    source = source_of(file)
    with Client(address) as client, _progress_of(output, name) as progress:
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
@address_option
@format_option
def list_artifacts(prefix: str, address: str, output: Output) -> None:
    """List artifacts, oldest first.

    PREFIX is what their names begin with.
    """
    with Client(address) as client:
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
@click.option("--force", is_flag=True, help="Although tasks refer to it; they fail from then on.")
@address_option
@format_option
def rm(*, reference: str, force: bool, address: str, output: Output) -> None:
    """Remove an artifact.

    REF is NAME, NAME:VERSION or sha256:HEX.
    """
    with Client(address) as client:
        deleted = client.delete_artifact(reference, force=force)
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
