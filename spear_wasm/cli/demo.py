"""A tour: `python -m spear_wasm.cli.demo` in a checkout, or `make demo`.

Starts a server of its own, uploads modules of fixtures/, calls them, has some stopped that misbehave, and
shows what everything cost. Exits with 0 if all of it went as it should, with 1 otherwise.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spear_wasm.cli.output import printable
from spear_wasm.cli.png import png_of
from spear_wasm.cli.results import cost, shown, wall_time
from spear_wasm.cli.service import health_facts, stats_facts
from spear_wasm.client import Argument, CallResult, Client, GuestFailure
from spear_wasm.errors import SpearError
from spear_wasm.limits import ResourceLimits
from spear_wasm.model import ErrorCode
from spear_wasm.units import format_duration, format_size

FIXTURES = Path(__file__).parents[2] / "fixtures"
KINDS = {"program": "wasi", "vowels": "extism", "http": "components"}
"""Where modules are that are not plain ones: a WASI program, an Extism plug-in, a component that answers HTTP."""
PICTURE = Path("mandelbrot.png")
START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 60.0, 30.0, 30.0
MIB = 1 << 20


class Surprise(Exception):
    """Something did not go as it should."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call, and how it has to end: with `value`, or for the reason `code`."""

    module: str
    function: str
    arguments: tuple[Argument, ...] = ()
    value: object = None
    code: str = ""
    named: Mapping[str, Argument] = field(default_factory=dict)
    timeout: float = 10.0
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    limit: str = ""

    def __str__(self) -> str:
        given = [shown_argument(it) for it in self.arguments]
        given += [f"{name}={shown_argument(it)}" for name, it in self.named.items()]
        return f"{self.module}.{self.function}({', '.join(given)})"

    def make(self, client: Client) -> CallResult:
        """Call, and raise Surprise where it ends in another way."""
        result = client.call(
            self.module,
            self.function,
            *self.arguments,
            parameters=self.named,
            timeout=self.timeout,
            limits=self.limits,
            check=False,
        )
        if result.error_code != self.code or (result.ok and result.value != self.value):
            wanted = self.code or repr(self.value)
            got = f"{result.error_code}: {result.error_message}" if not result.ok else repr(result.value)
            raise Surprise(f"{self} should have ended with {wanted}, not with {got}")
        return result


def shown_argument(argument: Argument) -> str:
    """An argument as Python has it, cut to what a line holds."""
    text = repr(argument)
    return text if len(text) <= 32 else f"{text[:30]}…"


RESPONSE = {
    "status": 200,
    "headers": [["content-type", "text/plain"]],
    "body": "SGVsbG8sIHdvcmxkIQo=",
}
GOOD_CALLS = (
    Call("calc", "add", (1, 2), value=3),
    Call("calc", "add64", (2**63 - 2, 1), value=2**63 - 1),
    Call("calc", "addf64", (0.1, 0.2), value=0.1 + 0.2),
    Call("calc", "divide", named={"divisor": 2, "dividend": 84}, value=42),
    Call("calc", "divmod", (17, 5), value=[3, 2]),
    Call("text", "upper", ("hello, world",), value=b"HELLO, WORLD"),
    Call("text", "word_count", ("to be\nor not to be\n",), value=b'{"lines":2,"words":6,"bytes":19}'),
    Call("sieve", "sieve", (1_000_000,), value=78_498),
    Call("program", "_start", ("words",), named={"stdin": "to be or not to be"}, value=b"6\n"),
    Call(
        "vowels",
        "count_vowels",
        ("to be or not to be",),
        value=b'{"count":6,"total":6,"vowels":"aeiouAEIOU"}',
    ),
    Call("http", "handle", ("/?from=demo",), value=RESPONSE),
)

BAD_CALLS = (
    Call("hostile", "spin", code=ErrorCode.TIMEOUT, timeout=0.25, limit="250 ms"),
    Call(
        "hostile", "spin", code=ErrorCode.CPU_TIME_EXCEEDED,
        limits=ResourceLimits(max_cpu_time_ms=100), limit="100 ms of CPU",
    ),
    Call(
        "hostile", "spin", code=ErrorCode.OUT_OF_FUEL,
        limits=ResourceLimits(max_fuel=1_000_000), limit="1,000,000 fuel",
    ),
    Call(
        "big_memory", "pages", code=ErrorCode.MEMORY_LIMIT,
        limits=ResourceLimits(max_memory_bytes=16 * MIB), limit="16 MiB",
    ),
    Call(
        "mandelbrot", "render", ("4000 4000",), code=ErrorCode.GUEST_ERROR,
        limits=ResourceLimits(max_memory_bytes=16 * MIB), limit="16 MiB",
    ),
    Call("hostile", "recurse", code=ErrorCode.TRAP_STACK_OVERFLOW, limit="the stack"),
    Call("calc", "divide", (1, 0), code=ErrorCode.TRAP_DIVIDE_BY_ZERO),
    Call("hostile", "outer", code=ErrorCode.TRAP_UNREACHABLE),
    Call("program", "_start", ("sleep", 60_000), code=ErrorCode.TIMEOUT, timeout=0.25, limit="250 ms, asleep"),
)  # fmt: skip


def main() -> int:
    """Give the tour; the exit code."""
    # A demo that is ended must not leave its server behind: let what stops it run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 120  # nobody's window: wide enough for every row
    try:
        with running_server() as address:
            console.print(Text.assemble("A server listens on ", (address, "bold cyan"), "."))
            with Client(address, timeout=ANSWER_SECONDS) as client:
                tour(console, client)
    except (Surprise, SpearError, GuestFailure, OSError) as error:
        console.print(
            Text(printable(f"The demo failed: {error}", lines=True), style="bold red"), soft_wrap=True
        )
        return 1
    console.print("The server has stopped cleanly.", style="green")
    return 0


def tour(console: Console, client: Client) -> None:
    """Upload, call, provoke, paint, look; raises where something is not as it should be."""
    console.print(uploads(client))
    console.print(good_calls(client))
    console.print(bad_calls(client))
    paint(console, client)
    console.print(condition(client))


def uploads(client: Client) -> Table:
    """Upload the modules, and tell what the server has found in them."""
    table = table_of("Uploaded", "module", "runtime", "size", "functions", "compiled in")
    for name in dict.fromkeys(call.module for call in (*GOOD_CALLS, *BAD_CALLS)):
        file = FIXTURES / KINDS.get(name, "wasm") / f"{name}.wasm"
        artifact = client.upload(file, name=name).artifact
        table.add_row(
            f"{artifact.name}:{artifact.version}",
            artifact.runtime_type,
            format_size(artifact.size_bytes),
            str(len(artifact.functions)),
            format_duration(artifact.compile_time_ms / 1000),
        )
    return table


def good_calls(client: Client) -> Table:
    """Make the calls that succeed."""
    table = table_of("Called", "call", "result", "CPU", "wall", "memory")
    for call in GOOD_CALLS:
        result = call.make(client)
        table.add_row(str(call), shown(result.value), *costs(result))
    return table


def bad_calls(client: Client) -> Table:
    """Make the calls that must not succeed."""
    table = table_of("Stopped, each in a sandbox of its own", "call", "ended by", "CPU", "wall", "memory")
    for call in BAD_CALLS:
        result = call.make(client)
        asked = Text(str(call))
        if call.limit:
            asked.append(f"\n  within {call.limit}", style="dim")
        why = Text(result.error_code, style="red")
        if call.code == ErrorCode.GUEST_ERROR:
            why.append(f"\n  {printable(result.error_message)}", style="dim")
        elif call.function == "outer":
            why.append("".join(f"\n  at {printable(frame)}" for frame in result.trap_frames), style="dim")
        table.add_row(asked, why, *costs(result))
    return table


def paint(console: Console, client: Client) -> None:
    """Have a picture computed, and keep it in the current folder."""
    result = client.call("mandelbrot", "render", "960 640 800", timeout=30)
    picture = result.value
    header = re.match(rb"P6 (\d+) (\d+) 255\n", picture) if isinstance(picture, bytes) else None
    if header is None or not isinstance(picture, bytes):
        raise Surprise("mandelbrot.render should have made a picture")
    width, height, rgb = int(header[1]), int(header[2]), picture[header.end() :]
    PICTURE.write_bytes(png_of(width, height, rgb))
    if console.is_terminal and not console.no_color:
        console.print(preview(width, height, rgb))
    console.print(
        Text.assemble(
            "\nThe Mandelbrot set is in ", (str(PICTURE), "bold cyan"), f". It took {cost(result)}."
        )
    )


def preview(width: int, height: int, rgb: bytes, columns: int = 72) -> Text:
    """A picture in characters, each of which shows two pixels, one above the other."""
    step = width / columns
    rows = int(height / step) // 2

    def pixel(column: int, row: int) -> str:
        start = (int(row * step) * width + int(column * step)) * 3
        return "#" + rgb[start : start + 3].hex()

    text = Text()
    for row in range(rows):
        text.append("\n")
        for column in range(columns):
            text.append("▀", style=f"{pixel(column, row * 2)} on {pixel(column, row * 2 + 1)}")
    return text


def condition(client: Client) -> Columns:
    """How the server is after all that; raises where it is not well."""
    health, stats = client.health(), client.stats()
    if health.status != "healthy":
        raise Surprise(f"the server is {health.status}: {health.message}")
    return Columns([panel_of("Health", health_facts(health)), panel_of("Stats", stats_facts(stats))])


@contextmanager
def running_server() -> Iterator[str]:
    """A server in a process and a folder of its own; gives its address, and stops it with SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="spear-wasm-demo-") as folder:
        log = Path(folder, "server.log")
        command = (sys.executable, "-m", "spear_wasm.cli", "serve", "--addr", "127.0.0.1:0")
        with (
            log.open("wb") as log_file,
            subprocess.Popen(
                (*command, "--data-dir", str(Path(folder, "data")), "--log-format", "json"),
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
            ) as server,
        ):
            try:
                yield address_of(server, log)
            except SpearError as error:
                raise Surprise(f"{error}\n{log.read_text()}") from error
            finally:
                stop(server, log)


def address_of(server: subprocess.Popen[str], log: Path) -> str:
    """The address that a server says it listens on."""
    assert server.stdout is not None
    patience = Timer(START_SECONDS, server.kill)
    patience.start()
    line = server.stdout.readline()
    patience.cancel()
    listening = re.fullmatch(r"listening on (\S+)\n", line)
    if listening is None:
        raise Surprise(f"the server did not start\n{log.read_text()}")
    return listening[1]


def stop(server: subprocess.Popen[str], log: Path) -> None:
    """End a server as an operator would, and raise where it does not end well."""
    server.send_signal(signal.SIGTERM)
    try:
        exit_code = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        exit_code = server.wait()
    if exit_code != 0:
        raise Surprise(f"the server ended with exit code {exit_code}\n{log.read_text()}")


def table_of(title: str, *columns: str) -> Table:
    """An empty table of ours."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.ROUNDED, header_style="cyan")
    for column in columns:
        numeric = column in {"size", "functions", "compiled in", "CPU", "wall", "memory"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    return table


def panel_of(title: str, facts: Mapping[str, str]) -> Panel:
    """Facts in a box."""
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, style="dim"), Text(printable(fact)))
    return Panel(grid, title=title, title_align="left", box=box.ROUNDED, expand=False)


def costs(result: CallResult) -> Sequence[str]:
    """What a call cost, in the order of our columns."""
    return (
        format_duration(result.cpu_time_ms / 1000),
        wall_time(result.execution_time_ms),
        format_size(result.memory_used_bytes),
    )


if __name__ == "__main__":
    sys.exit(main())
