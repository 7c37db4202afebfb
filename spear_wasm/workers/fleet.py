"""Which workers there are, and what is done when one of them is ready, or has died. Knows no process and no clock."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from spear_wasm.board import Board, Seat
from spear_wasm.workers.control import Failed, Message, Ready, Retire, Stop, TakenOver, TakeOver
from spear_wasm.workers.restarts import Restarts

log = structlog.get_logger()


class Child(Protocol):
    """What is asked of a worker's process."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        ...

    def tell(self, message: Message) -> None:
        """Send a message, if it is still there."""
        ...


@dataclass(eq=False, slots=True)
class Worker:
    """A worker from its start to its end; `number` is its own, and no other one's while the supervisor lives."""

    number: int
    place: Place
    seat: Seat
    child: Child = field(init=False)
    ready_at: float | None = None
    is_retiring: bool = False
    complaint: str = ""

    @property
    def serves(self) -> bool:
        """Whether it takes calls, and goes on to."""
        return self.ready_at is not None and not self.is_retiring


@dataclass(eq=False, slots=True)
class Place:
    """One of the parts that a server is divided into: its worker, and the one that is to follow it."""

    number: int
    worker: Worker | None = None
    successor: Worker | None = None
    restarts: Restarts = field(default_factory=Restarts)
    restart_at: float | None = None


@dataclass(eq=False, slots=True)
class _Duty:
    what: TakeOver
    worker: Worker | None = None


class Fleet:
    """The workers of a server. Times are those of `clock`, in seconds.

    `launch` starts the process of a worker; `on_listening` is called once all of them answer; `on_gone` when one has
    ended whose seat on the board is free again.
    """

    def __init__(
        self,
        places: int,
        board: Board,
        *,
        launch: Callable[[Worker], Child],
        clock: Callable[[], float],
        on_listening: Callable[[], None],
        on_gone: Callable[[int], None],
    ) -> None:
        self._places = [Place(number) for number in range(places)]
        self._board = board
        self._launch = launch
        self._clock = clock
        self._on_listening = on_listening
        self._on_gone = on_gone
        self._last_number = 0
        self._alive: list[Worker] = []
        self._rolling: deque[Place] = deque()
        self._roll_again = False
        self._duties = [_Duty(TakeOver(0, part, places)) for part in range(places)]
        self._is_listening = False
        self.is_stopping = False
        self.failure = ""
        """Why it is stopping, where nobody wanted it to."""
        self.all_ended_well = True

    @property
    def alive(self) -> list[Worker]:
        """The workers whose processes have not ended."""
        return list(self._alive)

    @property
    def next_restart(self) -> float | None:
        """When `restart` has something to do."""
        times = [place.restart_at for place in self._places if place.restart_at is not None]
        return min(times, default=None)

    # What the supervisor is told to do

    def start(self) -> None:
        """Start all of them."""
        for place in self._places:
            place.worker = self._started(place)

    def restart(self) -> None:
        """Start those whose time has come."""
        now = self._clock()
        for place in self._places:
            if place.restart_at is not None and place.restart_at <= now:
                place.restart_at = None
                place.worker = self._started(place)

    def replace_all(self) -> None:
        """One after the other: a new one serves before the old one retires. Where that is under way, once more."""
        if self.is_stopping or not self._is_listening:
            return
        if self._rolling:
            self._roll_again = True
            return
        log.info("replacing all workers")
        self._rolling.extend(self._places)
        self._replace_next()

    def stop(self) -> None:
        """Have all of them end in order; again: at once."""
        stop = Stop(at_once=self.is_stopping)
        self.is_stopping = True
        self._rolling.clear()
        for place in self._places:
            place.restart_at = None
        for worker in self._alive:
            worker.child.tell(stop)

    def kill(self) -> None:
        """End those that are left."""
        for worker in self._alive:
            worker.child.signal(signal.SIGKILL)

    # What workers do

    def heard(self, worker: Worker, message: Message) -> None:
        """A worker has said something."""
        match message:
            case Ready() if not self.is_stopping:
                self._ready(worker)
            case Failed(complaint):
                worker.complaint = complaint
            case TakenOver(what):
                self._duties = [duty for duty in self._duties if duty.what != what]

    def ended(self, worker: Worker, exit_code: int) -> None:
        """A worker's process has ended."""
        self._alive.remove(worker)
        self._board.seat(0).inherit(worker.seat)
        self._on_gone(worker.number)
        log.info("worker ended", worker=worker.number, pid=worker.child.pid, exit_code=exit_code)
        if self.is_stopping:
            had_not_begun = worker.ready_at is None and exit_code == -signal.SIGTERM
            self.all_ended_well = self.all_ended_well and (not exit_code or had_not_begun)
            return
        for duty in self._duties:
            if duty.worker is worker:
                duty.worker = None
        self._succeed(worker, exit_code)
        self._hand_out_duties()

    def _started(self, place: Place) -> Worker:
        self._last_number += 1
        seat = next(each for each in self._board.seats() if not each.worker)
        seat.worker, seat.place = self._last_number, place.number
        worker = Worker(self._last_number, place, seat)
        worker.child = self._launch(worker)
        self._alive.append(worker)
        log.info("worker started", worker=worker.number, pid=worker.child.pid)
        return worker

    def _ready(self, worker: Worker) -> None:
        place = worker.place
        worker.ready_at = self._clock()
        worker.seat.answers = True
        if place.successor is worker:
            retired, place.worker, place.successor = place.worker, worker, None
            if retired is None:
                self._replace_next()
            else:
                retired.is_retiring = True
                retired.child.tell(Retire())
        if not self._is_listening and all(each.worker and each.worker.serves for each in self._places):
            self._is_listening = True
            self._on_listening()
        self._hand_out_duties()

    def _replace_next(self) -> None:
        if self._rolling:
            place = self._rolling.popleft()
            if place.worker is not None:  # else it gets a new one anyway
                place.successor = self._started(place)
            else:
                self._replace_next()
        elif self._roll_again:
            self._roll_again = False
            self.replace_all()

    def _succeed(self, worker: Worker, exit_code: int) -> None:
        """See to the place of one that has ended, and to what it has left behind."""
        place = worker.place
        if not self._is_listening:
            self._fail(worker, exit_code)
            return
        if worker.ready_at is not None:
            parts = len(self._heirs()) or 1
            self._duties += [_Duty(TakeOver(worker.number, part, parts)) for part in range(parts)]
        if worker is place.successor:
            place.successor = None
            self._rolling.clear()
            log.error("the new worker did not start; the old ones stay", error=worker.complaint)
        elif worker is not place.worker:
            self._replace_next()  # it has retired
        else:
            place.worker = None
            if place.successor is None:
                self._start_again(place, worker, exit_code)

    def _start_again(self, place: Place, dead: Worker, exit_code: int) -> None:
        now = self._clock()
        served = now - dead.ready_at if dead.ready_at is not None else 0.0
        place.restart_at = now + place.restarts.pause_after(served)
        if place.restarts.is_hopeless and not any(each.serves for each in self._alive):
            self._fail(dead, exit_code)

    def _fail(self, worker: Worker, exit_code: int) -> None:
        ended_as = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        self.failure = (
            self.failure or worker.complaint or f"a worker ended before it could serve ({ended_as})"
        )
        self.stop()

    # What those leave that are gone

    def _heirs(self) -> list[Worker]:
        """Who takes over: best those who are not about to be replaced themselves."""
        serving = [each for each in self._alive if each.serves]
        staying = [each for each in serving if each.place not in self._rolling and not each.place.successor]
        return staying or serving

    def _hand_out_duties(self) -> None:
        heirs = self._heirs()
        if not heirs or not self._is_listening:
            return
        for duty in self._duties:
            if duty.worker is None:
                duty.worker = heirs[duty.what.part % len(heirs)]
                duty.worker.child.tell(duty.what)
