"""Turns that the workers of a server share, and what they tell each other of who waits."""

from __future__ import annotations

from pathlib import Path

from spear_wasm.board import Board, Wait
from spear_wasm.execution.shared_turns import SharedTurns
from spear_wasm.host import open_host, prepare
from spear_wasm.limits import ResourceLimits
from spear_wasm.locks.file_locks import FileLocks
from tests.execution.guests import Guests, config_with, until, upload

ONE_AT_A_TIME = ResourceLimits(max_concurrency=1)


def test_who_is_cancelled_while_it_waits_for_a_turn_keeps_nobody_from_theirs(tmp_path: Path) -> None:
    board = Board(seats=3, places=2)
    other = board.seat(2)
    prepare(config_with(), tmp_path, board.seat(0))
    mine = board.seat(1)
    mine.worker = 1
    with open_host(config_with(), tmp_path, mine) as host:
        guests = Guests(host)
        upload(host.artifacts, "hostile")
        task = guests.task(limits=ONE_AT_A_TIME)
        theirs = SharedTurns(FileLocks(tmp_path), other, task.id, 1)
        assert theirs.try_to_take()
        waiting = guests.spinning(task)
        assert other.others_wait(Wait.TURN)
        assert not other.others_wait(Wait.RUNNING)
        guests.cancel(waiting)
        until(lambda: not other.others_wait(Wait.TURN))
        theirs.give_back()
