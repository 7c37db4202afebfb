"""Modules that no toolchain would write: large ones, and ones that are hard to compile."""

from __future__ import annotations

PATIENT_COMPILER = '[compile]\nmax_wall_time = "5m"\nmax_cpu_time = "5m"\n'
"""Configuration of a server that is given the large one."""
PAGE = 65536
I32_TO_I32 = b"\x01\x60\x01\x7f\x01\x7f"
ADD_ONE = b"\x41\x01\x6a"
LOCAL_0 = b"\x20\x00"
END = b"\x0b"


def large(functions: int = 6000, adds: int = 700, data_bytes: int = 18 << 20) -> bytes:
    """About 30 MiB: many functions of some size, and data. Exports `add`, which adds `adds`."""
    body = b"\x00" + LOCAL_0 + ADD_ONE * adds + END
    pages = -(-data_bytes // PAGE)
    data = b"\x01\x00\x41\x00\x0b" + _vector(bytes(range(256)) * (data_bytes // 256))
    return _module(
        (1, I32_TO_I32),
        (3, _leb(functions) + bytes(functions)),
        (5, b"\x01\x00" + _leb(pages)),
        (7, b"\x01\x03add\x00\x00"),
        (10, _leb(functions) + _vector(body) * functions),
        (11, data),
    )


def bomb(branches: int = 40_000, functions: int = 60) -> bytes:
    """Slow to compile for its size: blocks with very many ways out of them."""
    body = b"\x00\x02\x40" + (LOCAL_0 + b"\x0d\x00") * branches + END + LOCAL_0 + END
    return _module(
        (1, I32_TO_I32),
        (3, _leb(functions) + bytes(functions)),
        (7, b"\x01\x04bomb\x00\x00"),
        (10, _leb(functions) + _vector(body) * functions),
    )


def custom_section(name: str, content: bytes) -> bytes:
    """To be put behind a module: it changes its digest, and nothing else."""
    return b"\x00" + _vector(_vector(name.encode()) + content)


def _module(*sections: tuple[int, bytes]) -> bytes:
    return b"\x00asm\x01\x00\x00\x00" + b"".join(bytes([kind]) + _vector(body) for kind, body in sections)


def _vector(content: bytes) -> bytes:
    return _leb(len(content)) + content


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes(encoded) + bytes([number])
