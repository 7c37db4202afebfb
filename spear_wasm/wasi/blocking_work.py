"""Work of the host that blocks, on a thread of its own, while the guest that wants it rests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

from spear_wasm.engine.wait import Wait


def done_aside(work: Callable[[], object], afterwards: Callable[[], object]) -> Generator[Wait, None, None]:
    """Wait until `work` is done, and raise what it raises. `afterwards` follows it, whatever became of the guest."""
    over, errors = Wait(), []

    def run() -> None:
        try:
            work()
        except OSError as error:
            errors.append(error)
        finally:
            afterwards()
            over.end()

    threading.Thread(target=run, name="spear-wasi", daemon=True).start()
    yield over
    if errors:
        raise errors[0]
