"""An average that follows what it averages."""

from __future__ import annotations


class MovingAverage:
    """An exponentially weighted moving average (EWMA): each figure counts less with each that follows."""

    def __init__(self, newest_share: float = 0.2) -> None:
        if not 0 < newest_share <= 1:
            raise ValueError(f"the newest figure's share is {newest_share}; it must be above 0 and at most 1")
        self._newest_share = newest_share
        self.value: float | None = None
        """None before the first figure."""

    def add(self, figure: float) -> None:
        """Count a new figure."""
        if self.value is None:
            self.value = figure
        else:
            self.value += self._newest_share * (figure - self.value)
