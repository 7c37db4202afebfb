"""Which locks the processes of a server have in one file, and in which order one may hold them."""

from __future__ import annotations

import hashlib
from enum import IntEnum


class Key(IntEnum):
    """What is done by one at a time, in whichever process. Whoever holds one waits only for those below it here.

    Some stand for many: what is here is the first of them, and none reaches to the next.
    """

    MAKING_CODE = 1 << 62
    """Making a pair of files of the code cache; each has its own, see `making_code`."""
    COMPILING = 1 << 16
    """One of the compilations of which there may be so many at once."""
    ARTIFACTS = 0
    """Changing files and rows of artifacts together."""
    CODE = 1
    """Changing a pair of files of the code cache."""
    ROOM = 2
    """Counting bytes that are to be on disk."""
    CLAIMING = 3
    """Claiming more of what all workers share."""
    EXECUTING = 1 << 61
    """One of the executions of which a task may have so many at once; each task has its own, see `executing`."""


def making_code(pair: str) -> int:
    """The key of who makes a pair of files."""
    return Key.MAKING_CODE | _hash(pair, 7)


def executing(task_id: str) -> int:
    """The first of a task's keys: there are 256."""
    return Key.EXECUTING | _hash(task_id, 6) << 8


def _hash(name: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:size], "big")
