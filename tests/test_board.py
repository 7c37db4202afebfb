from __future__ import annotations

import subprocess
import sys

from spear_wasm.board import Account, Board, News

FORKED = """
import os
from spear_wasm.board import Account, Board, News
board = Board(2)
before = board.seat(0).heard(News.NAMES)
child = os.fork()
if not child:
    board.seat(1).tell(News.NAMES)
    board.seat(1).count(Account.CODE, 42)
    os._exit(0)
os.waitpid(child, 0)
print(board.seat(0).heard(News.NAMES) != before, board.seat(0).total(Account.CODE))
"""


def test_what_one_tells_all_hear() -> None:
    board = Board(3)
    one, other = board.seat(1), board.seat(2)
    heard = {news: other.heard(news) for news in News}
    one.tell(News.NAMES)
    assert other.heard(News.NAMES) != heard[News.NAMES]
    assert all(other.heard(news) == heard[news] for news in News if news is not News.NAMES)


def test_news_of_tasks_are_those_that_calls_have_to_look_at() -> None:
    seat = Board(2).seat(1)
    before = seat.heard_of_tasks()
    seat.tell(News.NAMES)
    assert seat.heard_of_tasks() == before
    for news in (News.NEW_TASKS, News.ENDED_TASKS, News.REMOVALS):
        seat.tell(news)
        assert seat.heard_of_tasks() != before
        before = seat.heard_of_tasks()


def test_what_all_have_counted_is_added_up() -> None:
    board = Board(3)
    for number in range(3):
        board.seat(number).count(Account.UPLOADS, 10 * number - 5)
    assert board.seat(0).total(Account.UPLOADS) == 15
    assert board.seat(0).total(Account.CODE) == 0


def test_who_inherits_has_what_stays_and_the_seat_is_free() -> None:
    board = Board(3)
    dead = board.seat(2)
    dead.worker, dead.answers = 7, True
    for account in Account:
        dead.count(account, 100)
    board.seat(0).inherit(dead)
    assert {account: board.seat(1).total(account) for account in Account} == {
        Account.ARTIFACTS: 100,
        Account.CODE: 100,
        Account.UPLOADS: 0,
        Account.COMPILATIONS: 0,
    }
    assert [(seat.worker, seat.answers) for seat in board.seats()] == [(0, False)] * 2


def test_a_child_writes_where_its_parent_reads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "True 42\n"
