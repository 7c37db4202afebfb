"""What the processes of one server tell each other without being asked: numbers in memory that all of them map.

Each process writes to its own seat alone; only the supervisor also says who sits where, and clears the seats of the
dead. So nobody waits for anybody, and whoever dies leaves nothing half done: numbers are eight aligned bytes, which
processors read and write as a whole.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import Final


class News(IntEnum):
    """What may have changed since somebody looked."""

    NAMES = 0
    """Which artifact a name means."""
    # From here on they are about tasks, and what those need.
    NEW_TASKS = 1
    ENDED_TASKS = 2
    REMOVALS = 3
    """Artifacts have gone."""


class Account(IntEnum):
    """Bytes on disk. The first two stay when the process dies that had them counted."""

    ARTIFACTS = 0
    CODE = 1
    UPLOADS = 2
    COMPILATIONS = 3
    """Machine code that is about to be published."""


class Wait(IntEnum):
    """What a worker may wait for that others give back."""

    TURN = 0
    """To run an execution of a task, of which fewer may run at once than there are workers."""
    RUNNING = 1
    """Some of `Claim.RUNNING`."""
    MEMORY = 2
    """Some of `Claim.MEMORY`."""


class Claim(IntEnum):
    """What all workers share, and each claims before it uses it."""

    RUNNING = 0
    """Executions that run at once."""
    MEMORY = 1
    """Bytes that sandboxes may grow to."""

    @property
    def wait(self) -> Wait:
        """What one waits for who lacks some of it."""
        return Wait.RUNNING if self is Claim.RUNNING else Wait.MEMORY


_WORKERS: Final = 0
_DOORS: Final = 1
_WAITS: Final = 2
_NEWS: Final = _WAITS + len(Wait)
_ACCOUNTS: Final = _NEWS + len(News)
_CLAIMS: Final = _ACCOUNTS + len(Account)
_COLUMNS: Final = _CLAIMS + len(Claim)
_WIDTH: Final = 8

_WAITING: Final = 1
_OWED: Final = 2


class Board:
    """The numbers of so many processes. It is there for those that are forked from the one that made it.

    Seat 0 is of whoever made it: of the supervisor, or of the one process that serves alone. The server is divided
    into `places`, of which each worker has one.
    """

    def __init__(self, seats: int = 1, places: int = 1) -> None:
        self._seats = seats
        self.places = places
        self.made_at = time.monotonic()
        """When the server was started."""
        self._page = mmap.mmap(-1, _COLUMNS * seats * _WIDTH)
        self._numbers = memoryview(self._page).cast("q")

    def seat(self, number: int) -> Seat:
        """The seat that a process writes to."""
        return Seat(self, number)

    def seats(self) -> Iterator[Seat]:
        """All of them, the first one aside."""
        return (Seat(self, number) for number in range(1, self._seats))

    def column(self, number: int) -> memoryview:
        """What all seats say of one thing, as numbers."""
        return self._numbers[number * self._seats : (number + 1) * self._seats]

    def bytes_of(self, column: int, columns: int = 1) -> bytes:
        """The same of some things, as it is in memory: to be compared."""
        start = column * self._seats * _WIDTH
        return self._page[start : start + columns * self._seats * _WIDTH]

    @property
    def size(self) -> int:
        """How many seats there are."""
        return self._seats

    @property
    def workers(self) -> int:
        """How many workers there are now, at least one: while one is replaced there is one more than places."""
        return max(1, sum(map(bool, self.column(_WORKERS))))

    @property
    def is_shared(self) -> bool:
        """Whether there is anybody who could have anything to tell."""
        return self._seats > 1


class Seat:
    """A process's place on the board. Thread-safe."""

    def __init__(self, board: Board, number: int) -> None:
        self.board = board
        self.number = number
        self.place = 0
        """Which of the server's parts the worker has that sits here; for its own process."""
        self._workers = board.column(_WORKERS)
        self._doors = board.column(_DOORS)
        self._waits = [board.column(_WAITS + wait) for wait in Wait]
        self._news = [board.column(_NEWS + news) for news in News]
        self._accounts = [board.column(_ACCOUNTS + account) for account in Account]
        self._claims = [board.column(_CLAIMS + claim) for claim in Claim]
        self._lock = threading.Lock()  # guards: that the numbers of this seat change one step at a time

    # Who is there: written by the supervisor

    @property
    def worker(self) -> int:
        """The number of the worker that sits here; 0 for none."""
        return self._workers[self.number]

    @worker.setter
    def worker(self, number: int) -> None:
        self._workers[self.number] = number

    @property
    def answers(self) -> bool:
        """Whether its door for the other workers is open."""
        return bool(self._doors[self.number])

    @answers.setter
    def answers(self, value: bool) -> None:
        self._doors[self.number] = value

    def share_of(self, whole: int) -> int:
        """This worker's part of what is divided among all."""
        return part_of(whole, self.place, self.board.places)

    # What others give back

    def wait(self, what: Wait, *, owed: bool = False) -> None:
        """Let the others know that this worker waits for something that not all of them can have at once.

        With `owed` it is something that this worker has a right to.
        """
        self._waits[what][self.number] = _OWED if owed else _WAITING

    def stop_waiting(self) -> None:
        """Let the others know that it waits for nothing."""
        for column in self._waits:
            column[self.number] = 0

    def others_wait(self, what: Wait) -> bool:
        """Whether any other one does."""
        column = self._waits[what]
        return sum(column) != column[self.number]

    # What is claimed of what all workers share

    def claim(self, claim: Claim, amount: int) -> None:
        """So much is this worker's, until it says otherwise or is gone."""
        self._claims[claim][self.number] = amount

    def claims_of_others(self, claim: Claim, *, owed: bool = False) -> Iterator[int]:
        """What each other one has claimed; with `owed`, each that waits for more and has a right to it."""
        waits = self._waits[claim.wait]
        for number, amount in enumerate(self._claims[claim]):
            if number != self.number and (waits[number] == _OWED or not owed):
                yield amount

    # What is new

    def tell(self, news: News) -> None:
        """Let everybody know, once whatever it is can be seen."""
        with self._lock:
            self._news[news][self.number] += 1

    def heard(self, news: News) -> bytes:
        """Differs whenever anybody has told something."""
        return self.board.bytes_of(_NEWS + news)

    def heard_of_tasks(self) -> bytes:
        """Differs whenever a task or the artifact of one may have come or gone."""
        return self.board.bytes_of(_NEWS + News.NEW_TASKS, len(News) - News.NEW_TASKS)

    # What is on disk

    def count(self, account: Account, growth: int) -> None:
        """So many more bytes, or less."""
        with self._lock:
            self._accounts[account][self.number] += growth

    def total(self, account: Account) -> int:
        """What all processes together have counted."""
        return sum(self._accounts[account])

    def inherit(self, dead: Seat) -> None:
        """Take over what a process has left behind that is gone, and clear its seat for another."""
        for account in (Account.ARTIFACTS, Account.CODE):
            self.count(account, self._accounts[account][dead.number])
        for column in self._accounts:
            column[dead.number] = 0
        for column in self._claims:
            column[dead.number] = 0
        dead.stop_waiting()
        dead.answers = False
        dead.worker = 0


def part_of(whole: int, place: int, places: int) -> int:
    """So much that the parts of all places are the whole, and no two differ by more than one."""
    return (whole + places - 1 - place) // places
