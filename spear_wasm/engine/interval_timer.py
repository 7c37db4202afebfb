"""A timer of the operating system that calls a C function with one pointer, without Python and its GIL."""

from __future__ import annotations

import ctypes
import os

SIGEV_THREAD = 2
CLOCK_MONOTONIC = 1


class _SignalEvent(ctypes.Structure):
    """struct sigevent of <signal.h>, as far as SIGEV_THREAD uses it."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("reserved", ctypes.c_char * 32),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


_libc = ctypes.PyDLL(None, use_errno=True)
for _name in ("timer_create", "timer_settime", "timer_delete"):
    getattr(_libc, _name).restype = ctypes.c_int
_libc.timer_create.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.timer_settime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.timer_delete.argtypes = (ctypes.c_void_p,)


class IntervalTimer:
    """Calls `function(argument)`, both addresses, at intervals while it is running.

    The function is called on a thread that the C library makes, and must be safe to call from any. On a busy
    machine that thread may come to run late, even after `close`: what the argument points to must outlast it.
    """

    def __init__(self, function: int, argument: int) -> None:
        event = _SignalEvent(value=argument, notify=SIGEV_THREAD, function=function)
        timer = ctypes.c_void_p()
        _check(_libc.timer_create(CLOCK_MONOTONIC, ctypes.addressof(event), ctypes.addressof(timer)))
        self._timer = timer
        self._stopped = _TimerSpec()

    def start(self, period: float) -> None:
        """Call every period (seconds) from now on, whatever the period was before."""
        seconds, fraction = divmod(period, 1)
        spec = _TimeSpec(int(seconds), round(fraction * 1e9))
        self._set(_TimerSpec(spec, spec))

    def stop(self) -> None:
        """Do not call until started again; a call that is on its way may still arrive."""
        self._set(self._stopped)

    def _set(self, spec: _TimerSpec) -> None:
        _check(_libc.timer_settime(self._timer, 0, ctypes.addressof(spec), None))

    def close(self) -> None:
        """Give the timer back; a call that is on its way may still arrive."""
        _check(_libc.timer_delete(self._timer))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
