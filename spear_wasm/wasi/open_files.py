"""How many files all guests of this process may have open together."""

from __future__ import annotations

import resource
import threading

from spear_wasm.wasi.errno import Errno, WasiError


class OpenFileBudget:
    """A share of the descriptors that the host lets this process have; the rest is for its connections and its own.

    Guests that open too much together are refused, before the server can take in nobody any more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        # guards: how many are taken
        self._taken = 0

    def take(self) -> None:
        """Count one more.

        Raises:
            WasiError: NFILE, as there is none left.
        """
        with self._lock:
            if self._taken >= self._most:
                raise WasiError(Errno.NFILE)
            self._taken += 1

    def give_back(self) -> None:
        """Count one less."""
        with self._lock:
            self._taken -= 1


OPEN_FILES = OpenFileBudget(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
