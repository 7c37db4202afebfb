"""What a guest's run ends with, and what the library reports then in the words that callers are told."""

from __future__ import annotations

import ctypes

from spear_wasm.engine import capi
from spear_wasm.model import ErrorCode, ExecutionStatus, Outcome, TypedValue

MAX_FRAMES = 32
MAX_NAME_BYTES = 200
MAX_MESSAGE_CHARS = 1000

_UNKNOWN_OFFSET = ctypes.c_size_t(-1).value

_TRAP_CODES = {
    0: ErrorCode.TRAP_STACK_OVERFLOW,
    1: ErrorCode.TRAP_OUT_OF_BOUNDS,
    2: ErrorCode.TRAP_UNALIGNED_ATOMIC,
    3: ErrorCode.TRAP_TABLE_OUT_OF_BOUNDS,
    4: ErrorCode.TRAP_INDIRECT_CALL_TO_NULL,
    5: ErrorCode.TRAP_BAD_SIGNATURE,
    6: ErrorCode.TRAP_INTEGER_OVERFLOW,
    7: ErrorCode.TRAP_DIVIDE_BY_ZERO,
    8: ErrorCode.TRAP_BAD_CONVERSION,
    9: ErrorCode.TRAP_UNREACHABLE,
    11: ErrorCode.OUT_OF_FUEL,
    13: ErrorCode.TRAP_NULL_REFERENCE,
}
"""wasmtime_trap_code_t to our codes. INTERRUPT (10) is missing: our guests yield at a deadline, never trap."""

EXPLANATIONS = {
    ErrorCode.TRAP_STACK_OVERFLOW: "the guest overflowed its stack",
    ErrorCode.TRAP_OUT_OF_BOUNDS: "the guest accessed memory out of bounds",
    ErrorCode.TRAP_TABLE_OUT_OF_BOUNDS: "the guest accessed a table out of bounds",
    ErrorCode.TRAP_INDIRECT_CALL_TO_NULL: "the guest called through a null table entry",
    ErrorCode.TRAP_BAD_SIGNATURE: "the guest called through a table entry of another signature",
    ErrorCode.TRAP_INTEGER_OVERFLOW: "an integer operation overflowed",
    ErrorCode.TRAP_DIVIDE_BY_ZERO: "an integer was divided by zero",
    ErrorCode.TRAP_BAD_CONVERSION: "a float that is no integer was converted to one",
    ErrorCode.TRAP_UNREACHABLE: "the guest executed `unreachable`",
    ErrorCode.TRAP_NULL_REFERENCE: "the guest used a null reference",
    ErrorCode.TRAP_UNALIGNED_ATOMIC: "an atomic operation was not aligned",
    ErrorCode.OUT_OF_FUEL: "the guest used up its fuel",
}


class GuestFault(Exception):
    """Raised through a guest's run to end it with an outcome other than success."""

    def __init__(self, code: ErrorCode, message: str, *, trap_frames: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trap_frames = trap_frames

    def during(self, what: str) -> GuestFault:
        """The same fault, saying what the guest was running."""
        return GuestFault(self.code, f"in {what}: {self.message}", trap_frames=self.trap_frames)

    def outcome(self) -> Outcome:
        """What the caller of the execution is told."""
        return failure(self.code, self.message, trap_frames=self.trap_frames)


class GuestExit(GuestFault):
    """Raised through a guest's run that ended with a status of its own choice; 0 is success, with `values`.

    A host function raises it without values, where the guest asks for its end; a runtime may raise it on with some.
    """

    def __init__(self, status: int, values: tuple[TypedValue, ...] = ()) -> None:
        super().__init__(ErrorCode.EXIT_STATUS, f"the guest exited with status {status}")
        self.status = status
        self.values = values

    def too_early(self) -> GuestFault:
        """The fault that it is, whatever its status, where the guest has yet to be called."""
        return GuestFault(self.code, f"{self.message} before it was called")

    def outcome(self) -> Outcome:
        """What the caller of the execution is told."""
        if self.status:
            return failure(self.code, self.message, exit_code=self.status)
        return Outcome(ExecutionStatus.COMPLETED, self.values, exit_code=0)


class GuestError(GuestFault):
    """Raised through a guest's run that ended with an error of its own, which may have a value."""

    def __init__(self, message: str, values: tuple[TypedValue, ...] = ()) -> None:
        super().__init__(ErrorCode.GUEST_ERROR, message)
        self.values = values

    def outcome(self) -> Outcome:
        """What the caller of the execution is told."""
        return failure(self.code, self.message, values=self.values)


_STATUS_OF = {ErrorCode.TIMEOUT: ExecutionStatus.TIMEOUT, ErrorCode.CANCELLED: ExecutionStatus.CANCELLED}


def failure(
    code: ErrorCode,
    message: str,
    *,
    trap_frames: tuple[str, ...] = (),
    exit_code: int | None = None,
    values: tuple[TypedValue, ...] = (),
) -> Outcome:
    """An outcome other than success; its status follows from the code. An error of the guest's own may have a value."""
    return Outcome(
        status=_STATUS_OF.get(code, ExecutionStatus.FAILED),
        values=values,
        error_code=code,
        error_message=message[:MAX_MESSAGE_CHARS],
        trap_frames=trap_frames,
        exit_code=exit_code,
    )


def take_trap(trap: int) -> GuestFault:
    """The fault that a trap of the guest stands for; frees the trap."""
    code = ctypes.c_uint8()
    known = capi.trap_code(trap, ctypes.addressof(code))
    frames = take_frames(capi.trap_trace, trap)
    message = capi.ByteVec()
    capi.trap_message(trap, ctypes.addressof(message))
    text = capi.take_bytes(message).rstrip(b"\0").decode("utf-8", "replace")
    capi.trap_delete(trap)
    if not known:
        return GuestFault(ErrorCode.TRAP_OTHER, text, trap_frames=frames)
    error_code = _TRAP_CODES.get(code.value, ErrorCode.TRAP_OTHER)
    return GuestFault(error_code, EXPLANATIONS.get(error_code, text), trap_frames=frames)


def take_error(error: int) -> GuestFault:
    """The fault that an error from the library stands for; frees the error.

    Guests' own failures come as traps; what comes as an error is the engine refusing to go on.
    """
    frames = take_frames(capi.error_wasm_trace, error)
    return GuestFault(ErrorCode.INSTANCE_FAILED, capi.take_error(error), trap_frames=frames)


def take_frames(trace: capi.Function, source: int) -> tuple[str, ...]:
    """The guest's frames that a trap or an error of the library tells of, up to MAX_FRAMES."""
    frames = capi.PointerVec()
    trace(source, ctypes.addressof(frames))
    described = tuple(_describe_frame(frames.data[index]) for index in range(min(frames.size, MAX_FRAMES)))
    capi.frame_vec_delete(ctypes.addressof(frames))
    return described


def _describe_frame(frame: int) -> str:
    """`name+0x1f`, or `func[3]+0x1f` where the module has no name for the function.

    The offset is left out where the library does not know it: where the prologue of a function finds that
    its frame does not fit on the stack.
    """
    name = capi.frame_func_name(frame)
    if name and name.contents.size:
        vector = name.contents
        label = ctypes.string_at(vector.data, min(vector.size, MAX_NAME_BYTES)).decode("utf-8", "replace")
    else:
        label = f"func[{capi.frame_func_index(frame)}]"
    offset = capi.frame_func_offset(frame)
    return label if offset == _UNKNOWN_OFFSET else f"{label}+{offset:#x}"
