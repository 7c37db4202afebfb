"""The kernel of Extism plug-ins, held against a model of what blocks are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.extism.host import KERNEL_CEILING
from runtimes.extism.kernel import COMPANION, KERNEL
from spear_wasm.engine.accompanied_sandbox import AccompaniedSandbox
from spear_wasm.engine.binary import inspect
from spear_wasm.engine.companion import CompiledCompanion
from spear_wasm.engine.sandbox import ExportedFunction
from spear_wasm.engine.text import wat_to_wasm
from tests.workshop import LIMITS, Workshop, run_to_end

FUNCTIONS = {each.name: each for each in inspect(KERNEL.read_bytes(), KERNEL_CEILING).functions}
HEADER_BYTES = 16
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 100_000))


class Kernel:
    """The kernel in a sandbox of a guest that does nothing."""

    def __init__(self, sandbox: AccompaniedSandbox) -> None:
        self.sandbox = sandbox

    def call(self, name: str, *arguments: int) -> int:
        function = ExportedFunction(name, FUNCTIONS[name].type)
        results = run_to_end(self.sandbox, self.sandbox.call_companion(function, arguments))
        return int(results[0]) if results else 0


@pytest.fixture(scope="module")
def kernel(workshop: Workshop) -> Iterator[Kernel]:
    text = KERNEL.with_suffix(".wat").read_text(encoding="utf-8")
    code, module = workshop.compiled(text[text.index("(module") :])
    companion = CompiledCompanion(COMPANION.name, code, module, COMPANION.functions)
    linked = workshop.plain.link(*workshop.compiled("(module)"), {}, companion)
    sandbox = linked.new_sandbox(LIMITS)
    assert isinstance(sandbox, AccompaniedSandbox)
    run_to_end(sandbox, sandbox.instantiate())
    yield Kernel(sandbox)
    sandbox.close()


def test_the_kernel_is_what_its_source_says() -> None:
    assert KERNEL.read_bytes() == wat_to_wasm(KERNEL.with_suffix(".wat").read_bytes())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_in_use_never_overlap_and_keep_their_lengths_and_contents(
    kernel: Kernel, data: st.DataObject
) -> None:
    kernel.call("reset")
    live: dict[int, bytes] = {}
    for number in range(data.draw(st.integers(1, 60))):
        frees: bool = data.draw(st.booleans())
        if live and frees:
            offset = data.draw(st.sampled_from(sorted(live)))
            kernel.call("free", offset)
            del live[offset]
            assert kernel.call("length", offset) == 0
        else:
            size = data.draw(SIZES)
            offset = kernel.call("alloc", size)
            assert offset
            live[offset] = bytes([number]) * size
            kernel.sandbox.write_companion(offset, live[offset])
    ranges = sorted((offset - HEADER_BYTES, offset + len(content)) for offset, content in live.items())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges))
    for offset, content in live.items():
        assert kernel.call("length", offset) == len(content)
        assert kernel.sandbox.read_companion(offset, len(content)) == content


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_a_block_that_was_freed_serves_the_next_of_its_size(kernel: Kernel, size: int) -> None:
    kernel.call("reset")
    first = kernel.call("alloc", size)
    kernel.call("alloc", 1)
    kernel.call("free", first)
    assert kernel.call("alloc", size) == first


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_at_most_an_eighth_of_a_block_is_not_used(kernel: Kernel, size: int) -> None:
    kernel.call("reset")
    first, second = kernel.call("alloc", size), kernel.call("alloc", size)
    used = second - first - HEADER_BYTES
    assert size <= used <= max(size + 15, size * 9 // 8 + 16)
