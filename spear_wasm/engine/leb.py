"""A bounded walk over untrusted bytes, in the encodings that WebAssembly modules are made of.

Every refusal is an InvalidArtifact that says at which byte of the whole module it happened, in words and as
its `offset`. No call reads past the cursor's end, and none does more work than the bytes it consumes.
"""

from __future__ import annotations

from spear_wasm.errors import InvalidArtifact

_U32_BYTES = 5
"""The longest encoding of 32 bits, at seven bits a byte."""


def invalid(problem: str, offset: int) -> InvalidArtifact:
    """The error for a problem at that byte of the module."""
    return InvalidArtifact(f"{problem} (at byte {offset})", offset=offset)


def encode_u32(value: int) -> bytes:
    """The shortest LEB128 of an unsigned number below 2^32."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class ByteCursor:
    """A position that moves over `[start, end)` of a module; `part` names those bytes in errors.

    It holds the caller's view and makes no lasting one of its own, so that releasing the caller's is enough
    to let go of what lies below, also while an error's traceback holds the cursor.
    """

    __slots__ = ("_view", "end", "part", "position")

    def __init__(self, view: memoryview, start: int, end: int, part: str) -> None:
        self._view = view
        self.position = start
        self.end = end
        self.part = part

    def byte(self) -> int:
        """The next byte."""
        at = self.position
        if at >= self.end:
            raise self._truncated()
        self.position = at + 1
        return self._view[at]

    def u32(self) -> int:
        """The next number: LEB128, unsigned, of at most 32 bits and five bytes."""
        at = self.position
        if at < self.end and (first := self._view[at]) < 0x80:
            self.position = at + 1
            return first
        return self._long_u32()

    def _long_u32(self) -> int:
        start = self.position
        value = 0
        for shift in range(0, 7 * _U32_BYTES, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 32:
                    break
                return value
        raise invalid("a number has more than 32 bits or five bytes", start)

    def take(self, count: int) -> bytes:
        """A copy of the next `count` bytes."""
        at = self.position
        self.skip(count)
        return bytes(self._view[at : at + count])

    def skip(self, count: int) -> None:
        """Go past the next `count` bytes without looking at them."""
        if count > self.end - self.position:
            raise self._truncated()
        self.position += count

    def skip_prefix(self, prefix: bytes) -> bool:
        """Go past `prefix` if it comes next; says whether it did."""
        after = self.position + len(prefix)
        if after > self.end or self._view[self.position : after] != prefix:
            return False
        self.position = after
        return True

    def name(self, max_bytes: int) -> str:
        """The next name: its length in bytes, then UTF-8.

        Raises:
            InvalidArtifact: it is longer than `max_bytes`, runs past the end, or is not UTF-8.
        """
        start = self.position
        size = self.u32()
        if size > max_bytes:
            raise invalid(f"a name has {size} bytes; {max_bytes} are accepted", start)
        at = self.position
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise invalid("a name is not UTF-8", at + error.start) from None

    def within(self, size: int, part: str) -> ByteCursor:
        """A cursor over the next `size` bytes, which this one goes past."""
        start = self.position
        if size > self.end - start:
            raise invalid(f"the {part} runs past the end of the {self.part}", start)
        self.position = start + size
        return ByteCursor(self._view, start, self.position, part)

    def expect_end(self) -> None:
        """Refuse bytes that nothing has read."""
        if self.position < self.end:
            raise invalid(f"the {self.part} has {self.end - self.position} bytes too many", self.position)

    def _truncated(self) -> InvalidArtifact:
        return invalid(f"the {self.part} ends too early", self.end)
