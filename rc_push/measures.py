"""How long does it take, and how many are there a minute? Counts that cost next to nothing to keep.

Knows numbers; knows nothing of what they measure, nor of clocks (`at` is an argument).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

# Upper bounds, in seconds: from a commit on a fast disk to the longest that a handler usually gets.
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class DurationStatistics:
    """How many took up to which of `BOUNDS_S`, each counted once; the last of *counts* are those that took longer."""

    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Durations:
    """Durations by their size. One thread adds; any may look."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, took_s: float) -> None:
        """Count one that took *took_s*."""
        self._counts[bisect_left(BOUNDS_S, took_s)] += 1
        self._sum_s += took_s

    def statistics(self) -> DurationStatistics:
        """Return what is known now."""
        return DurationStatistics(tuple(self._counts), self._sum_s)


class PerMinute:
    """How many there were in the last minute, by the second. *at* is epoch seconds; a clock that is put back waits."""

    def __init__(self) -> None:
        self._counts = [0] * MINUTE_S
        self._second = 0

    def add(self, count: int, at: float) -> None:
        """Count so many."""
        self._move_to(at)
        self._counts[self._second % MINUTE_S] += count

    def count(self, at: float) -> int:
        """Return how many there were in the minute before *at*."""
        self._move_to(at)
        return sum(self._counts)

    def _move_to(self, at: float) -> None:
        """Forget the seconds that have left the minute."""
        passed = int(at) - self._second
        for number in range(1, min(passed, MINUTE_S) + 1):
            self._counts[(self._second + number) % MINUTE_S] = 0
        self._second += max(0, passed)


class Refusals(Counter[str]):
    """How often a server has refused what, by reason. *news* are told now and then: nobody can fill the log.

    No reason is named as secrets are: the log would hide its count.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: Counter[str] = Counter()

    def news(self) -> dict[str, int]:
        """Return what has come since this was asked last."""
        news = dict(self - self._told)
        self._told = Counter(self)
        return news
