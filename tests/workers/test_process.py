from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from spear_wasm.workers.control import Failed, Line, Ready, Retire, TakeOver

PATIENCE = 30.0
SCRIPT = """
import os, signal, sys
from spear_wasm.workers.control import Failed, Ready, Retire
from spear_wasm.workers.process import Process

def obey(line):
    line.send(Ready())
    select = __import__("select")
    select.select([line], [], [])
    assert list(line.messages()) == [Retire()]
    return 7

def wait_for_ever(line):
    print(os.getpid(), flush=True)
    signal.pause()

{do}
"""


def run(do: str) -> str:
    """What a program prints that forks: not this one, which has threads."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(do=do)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def test_a_child_hears_and_is_heard_and_its_exit_code_is_told() -> None:
    do = """
import select
child = Process(obey)
select.select([child.line], [], [])
assert list(child.line.messages()) == [Ready()]
child.tell(Retire())
select.select([child], [], [])
print(child.reap())
"""
    assert run(do) == "7"


def test_a_child_that_raises_ends_with_1_and_never_returns_into_its_parents_code() -> None:
    do = """
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
child = Process(lambda line: 1 // 0)
print(child.reap())
"""
    assert run(do) == "1"


def test_signals_of_a_terminal_are_the_parents_to_handle() -> None:
    do = """
child = Process(lambda line: [line.send(Ready()), signal.pause()] and 0)
import select
select.select([child.line], [], [])
child.signal(signal.SIGINT)
child.signal(signal.SIGHUP)
child.signal(signal.SIGTERM)
print(child.reap())
"""
    assert run(do) == str(-signal.SIGTERM)


def test_a_child_does_not_outlive_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(do="Process(wait_for_ever)\nsignal.pause()")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    assert not psutil.wait_procs([child], PATIENCE)[1]


def test_a_line_tells_when_its_other_end_is_gone() -> None:
    one, other = Line.pair()
    one.send(TakeOver(3, 0, 2))
    one.send(Failed("x" * 1000))
    one.close()
    select.select([other], [], [], PATIENCE)
    assert list(other.messages()) == [TakeOver(3, 0, 2), Failed("x" * 1000)]
    assert other.is_dead
    other.send(Ready())
    other.close()


def test_nobody_waits_for_who_does_not_listen() -> None:
    one, other = Line.pair()
    for _ in range(10_000):
        one.send(Retire())
    assert not one.is_dead
    one.close()
    other.close()


@pytest.mark.parametrize("descriptor", [0])
def test_the_line_is_closed_when_programs_are_started(descriptor: int) -> None:
    one, other = Line.pair()
    assert descriptor not in {one.fileno(), other.fileno()}
    assert not any(os.get_inheritable(end.fileno()) for end in (one, other))
    one.close()
    other.close()
