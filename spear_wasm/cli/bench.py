"""`spear-wasm bench`: what calls of a function cost its caller, and how long they take."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click

from spear_wasm.cli import exit_codes
from spear_wasm.cli.arguments import CallArguments, FunctionCommand, call_options
from spear_wasm.cli.exit_codes import ExitCode
from spear_wasm.cli.options import Server, format_option, server_options, utf8
from spear_wasm.cli.output import Output
from spear_wasm.client import CallResult
from spear_wasm.errors import SpearError
from spear_wasm.model import PROGRAM_START
from spear_wasm.units import format_duration, format_size

PERCENTILES = (50, 99, 99.9)


@dataclass(frozen=True, slots=True)
class Answered:
    """One call: the seconds that it took, and its result or why there is none."""

    seconds: float
    result: CallResult | SpearError

    @property
    def failure(self) -> str:
        """Why it did not complete; empty where it did."""
        if isinstance(self.result, SpearError):
            return self.result.reason
        return "" if self.result.ok else self.result.error_code or str(self.result.status)


@click.command(cls=FunctionCommand)
@click.argument("reference", metavar="REF", type=utf8)
@click.argument("function", type=utf8, default=PROGRAM_START)
@call_options
@click.option(
    "--calls", metavar="N", type=click.IntRange(1), default=2000, show_default=True, help="Calls to make."
)
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="Calls under way at once.",
)
@server_options
@format_option
@click.pass_context
def bench(
    context: click.Context,
    *,
    reference: str,
    function: str,
    call: CallArguments,
    calls: int,
    concurrency: int,
    server: Server,
    output: Output,
) -> None:
    """Call a function again and again, and say how long that took.

    REF, the function and ARGS are as for `call`. The first call, which makes the task, is not counted. How many calls
    a second there are is bounded by this program, too, which is one process of Python.
    """
    with server.connect() as client:
        function, call = call.meant_by(client, reference, function)
        positional, named = call.of(function)
        terms = call.terms()
        first = client.call(
            reference, function, *positional,
            parameters=named, runtime_config=call.runtime_config, check=False, **terms,
        )  # fmt: skip

        def again() -> CallResult:
            return client.call_task(
                first.task_id, function, *positional, parameters=named, check=False, **terms
            )

        with output.waiting(f"calling {function} {calls:,} times"):
            begun = time.perf_counter()
            answered = _asked(again, calls, concurrency)
            took = time.perf_counter() - begun
    _show(output, answered, took)
    failed = next((each.result for each in answered if each.failure), None)
    if failed is None:
        context.exit(ExitCode.OK)
    context.exit(
        exit_codes.of_error(failed) if isinstance(failed, SpearError) else exit_codes.of_result(failed)
    )


def _asked(ask: Callable[[], CallResult], calls: int, concurrency: int) -> list[Answered]:
    left = itertools.count(calls, -1)

    def keep_asking(_: int) -> list[Answered]:
        return [_timed(ask) for _ in iter(lambda: next(left) > 0, False)]

    with ThreadPoolExecutor(concurrency) as threads:
        return [each for answered in threads.map(keep_asking, range(concurrency)) for each in answered]


def _timed(ask: Callable[[], CallResult]) -> Answered:
    begun = time.perf_counter()
    try:
        result: CallResult | SpearError = ask()
    except SpearError as error:
        result = error
    return Answered(time.perf_counter() - begun, result)


def _show(output: Output, answered: Sequence[Answered], took: float) -> None:
    results = [each.result for each in answered if isinstance(each.result, CallResult)]
    failures = Counter(each.failure for each in answered if each.failure)
    times = {
        "latency": [each.seconds for each in answered],
        "wait for a turn": [each.queue_time_ms / 1e3 for each in results],
        "CPU of the guest": [each.cpu_time_ms / 1e3 for each in results],
    }
    peak = max((each.memory_used_bytes for each in results), default=0)
    if output.json:
        output.document(
            {
                "calls": len(answered),
                "calls_per_second": len(answered) / took,
                "failures": dict(failures),
                "peak_memory_bytes": peak,
                "seconds": {
                    name.replace(" ", "_"): dict(_spread(each)) for name, each in times.items() if each
                },
            }
        )
        return
    facts = {"calls": f"{len(answered):,} in {format_duration(took)}, {len(answered) / took:,.0f} a second"}
    for name, each in times.items():
        if each:
            facts[name] = ", ".join(f"{which} {format_duration(value)}" for which, value in _spread(each))
    facts["peak memory"] = format_size(peak)
    facts |= {f"  {reason}": f"{count:,}" for reason, count in failures.most_common()}
    output.facts(facts)


def _spread(seconds: Sequence[float]) -> Iterator[tuple[str, float]]:
    ordered = sorted(seconds)
    for percent in PERCENTILES:
        yield f"p{percent:g}", ordered[math.ceil(len(ordered) * percent / 100) - 1]
    yield "max", ordered[-1]
