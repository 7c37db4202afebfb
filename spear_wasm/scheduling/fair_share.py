"""How much one task may hold of something that all of them share: places to run, memory, places in the line."""

from __future__ import annotations

MOST_TO_FREE = 3


def is_at_share(held: int, free: int) -> bool:
    """Whether a task that holds so much has to leave what is free to the others.

    A task gets more while it holds less than MOST_TO_FREE times what is free, so what it may hold shrinks as others
    come and grows as they go, and nobody has to know how many there are (switches share their buffers by such
    dynamic thresholds). One that is alone gets three quarters, two that want all they can get three sevenths each,
    n of them MOST_TO_FREE / (1 + MOST_TO_FREE * n). What is left is the price: it is there at once for a task that
    holds nothing, and for some more of its calls than one, however long those take that others have begun. Of
    three or less, a task that is alone gets all.

    Without it a task whose executions are long has everything in the end: taking turns decides who gets what
    becomes free, not who has it for how long.
    """
    return held > 0 and held >= MOST_TO_FREE * free
