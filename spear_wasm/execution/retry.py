"""Whether an attempt that failed is followed by another, and after how long. Pure: no clock, no dice, no guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spear_wasm.model import ErrorCode, Outcome

HOST_FAULTS: Final = frozenset({ErrorCode.INSTANCE_FAILED, ErrorCode.WORKER_LOST})
"""What the guest has no part in."""
TRAPS: Final = frozenset(code for code in ErrorCode if code.name.startswith("TRAP_"))
"""What the guest did, and may not do again where it depends on more than its arguments."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses before attempts: they double from `first` seconds up to `longest`.

    Up to half of each is left to chance, so that what failed together does not come back together.
    """

    first: float
    longest: float

    def pause(self, failed: int, chance: float) -> float:
        """Seconds to wait after so many attempts have failed; `chance` is 0.0 to 1.0."""
        # Doubled no more often than any two durations differ: a float has an end.
        whole = min(self.longest, self.first * 2.0 ** min(failed - 1, 64))
        return whole * (1 + chance) / 2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an execution may begin again, and for which failures.

    A fault of the host is always one of them, a trap of the guest where its task asked for that. A time that ran
    out, a cancellation, a limit that the guest ran into and an error that it gave itself never are.
    """

    max_retries: int = 0
    traps: bool = False

    def allows_another(self, attempts: int) -> bool:
        """Whether there may be one more after so many."""
        return attempts <= self.max_retries

    def pause(
        self, outcome: Outcome, attempts: int, seconds_left: float, backoff: Backoff, chance: float
    ) -> float | None:
        """Seconds to wait before the attempt after this one; None where this one's outcome stands.

        `attempts` counts those that have been made. None follows that could not begin within `seconds_left`.
        """
        code = outcome.error_code
        if not (code in HOST_FAULTS or (self.traps and code in TRAPS)) or not self.allows_another(attempts):
            return None
        pause = backoff.pause(attempts, chance)
        return pause if pause < seconds_left else None
