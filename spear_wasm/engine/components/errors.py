"""What the library tells of a component's end, which is words alone, as faults."""

from __future__ import annotations

import re

from spear_wasm.engine import capi
from spear_wasm.engine.outcome import EXPLANATIONS, GuestFault, take_frames
from spear_wasm.model import ErrorCode

TRAPS = {
    "call stack exhausted": ErrorCode.TRAP_STACK_OVERFLOW,
    "out of bounds memory access": ErrorCode.TRAP_OUT_OF_BOUNDS,
    "unaligned atomic": ErrorCode.TRAP_UNALIGNED_ATOMIC,
    "undefined element: out of bounds table access": ErrorCode.TRAP_TABLE_OUT_OF_BOUNDS,
    "uninitialized element": ErrorCode.TRAP_INDIRECT_CALL_TO_NULL,
    "indirect call type mismatch": ErrorCode.TRAP_BAD_SIGNATURE,
    "integer overflow": ErrorCode.TRAP_INTEGER_OVERFLOW,
    "integer divide by zero": ErrorCode.TRAP_DIVIDE_BY_ZERO,
    "invalid conversion to integer": ErrorCode.TRAP_BAD_CONVERSION,
    "wasm `unreachable` instruction executed": ErrorCode.TRAP_UNREACHABLE,
    "all fuel consumed by WebAssembly": ErrorCode.OUT_OF_FUEL,
    "null reference": ErrorCode.TRAP_NULL_REFERENCE,
}
"""How the library words traps to our codes: a call of a component tells a trap by its words alone."""
_HOST_CALL_BOUND = "fuel allocated for hostcalls has been exhausted"
_NUMBER = re.compile(r"^\d+: ")
"""Where there are several causes, each has one: the address of a memory fault comes before the trap."""
_ABOVE_LIMIT = re.compile(r"(memory|table) minimum size of \d+ \w+ exceeds (memory|table) limits$")
_ENGINE_REFUSES = re.compile(
    r"limit of \d+ .*reached|^resource limit exceeded|^component imports |matching implementation was not found|"
    r"\(os error \d+\)$"
)


def take_error(error: int) -> GuestFault:
    """The fault that an error from a component's instantiation or call stands for; frees the error.

    Guests choose what their functions are called, which the library puts before the cause: only the last line counts.
    """
    frames = take_frames(capi.error_wasm_trace, error)
    return told_in(capi.take_error(error), frames)


def told_in(text: str, frames: tuple[str, ...] = ()) -> GuestFault:
    """The fault that an error's text tells of."""
    cause = _NUMBER.sub("", text.strip().rpartition("\n")[2].strip())
    before, _, words = cause.partition("wasm trap: ")
    trap = None if before else TRAPS.get(words)
    if trap is not None:
        return GuestFault(trap, EXPLANATIONS[trap], trap_frames=frames)
    if cause.endswith(_HOST_CALL_BOUND):
        return GuestFault(
            ErrorCode.OUTPUT_LIMIT,
            "the guest passed more to its host at once than the engine takes: some 2.5 million values",
            trap_frames=frames,
        )
    if _ABOVE_LIMIT.search(cause):
        return GuestFault(ErrorCode.MEMORY_LIMIT, f"the component does not start within its limits: {cause}")
    if _ENGINE_REFUSES.search(cause):
        return GuestFault(ErrorCode.INSTANCE_FAILED, cause, trap_frames=frames)
    # Whatever else: what it passed is no value of its type, or a handle that it does not have.
    return GuestFault(ErrorCode.TRAP_OTHER, cause, trap_frames=frames)
