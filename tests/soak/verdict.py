"""Has it stayed flat? Slopes of what was sampled, with their standard errors, held against bounds.

A least-squares line through the means of each trouble, each compared with itself in other rounds: what a trouble does
for as long as it lasts is no growth. What is sampled hangs together from one trouble to the next, so the error is
widened by that much. Pure: knows numbers; knows nothing of processes or clocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two standard errors: an odd row fails one run in forty by chance.
SURE = 2.0
# So many more means than troubles: a line through fewer says nothing of its own error.
BLOCKS_MIN = 6
# Means that hang together more closely than this are one trend, which the line has to show.
CORRELATION_MAX = 0.8
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Point:
    """A *value* at a time, in seconds, while *kind* of trouble was met."""

    at: float
    value: float
    kind: str = ""


Points = Sequence[Point]


@dataclass(frozen=True, slots=True)
class Bound:
    """How much *name* may grow an hour, and how large it may ever be, in *unit*; *why* says where that comes from."""

    name: str
    unit: str
    per_h: float
    peak: float
    why: str


@dataclass(frozen=True, slots=True)
class Slope:
    """A line's rise an hour, and its standard error."""

    per_h: float
    error_per_h: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one bound; *complaint* is empty where it was kept."""

    bound: Bound
    first: float
    last: float
    peak: float
    slope: Slope | None
    complaint: str


def judge(bound: Bound, points: Points) -> Finding:
    """Hold *points*, those after warming up, against *bound*."""
    blocks = block_means(points)
    slope = slope_of(blocks)
    peak = max(point.value for point in points)
    return Finding(bound, blocks[0].value, blocks[-1].value, peak, slope, _complaint(bound, peak, slope))


def _complaint(bound: Bound, peak: float, slope: Slope | None) -> str:
    if peak > bound.peak:
        return f"was {peak:.1f} {bound.unit}, may be {bound.peak:.1f} at the most"
    if slope is None:
        return "too short a run to tell"
    if slope.per_h - SURE * slope.error_per_h > bound.per_h:
        return f"grows by {slope.per_h:.1f} {bound.unit} an hour, may by {bound.per_h:.1f}"
    if slope.per_h + SURE * slope.error_per_h > bound.per_h:
        return "cannot be told from its own unrest: run it for longer"
    return ""


def slope_of(blocks: Points) -> Slope | None:
    """Fit lines of one slope, one to each kind; None where there is too little to fit."""
    kinds = {block.kind for block in blocks}
    count = len(blocks) - len(kinds)
    if count < BLOCKS_MIN:
        return None
    ats, values = _apart(blocks, [block.at for block in blocks]), _apart(blocks, [block.value for block in blocks])
    spread = sum(at**2 for at in ats)
    rise = sum(at * value for at, value in zip(ats, values, strict=True)) / spread
    residuals = [value - rise * at for at, value in zip(ats, values, strict=True)]
    error = math.sqrt(sum(residual**2 for residual in residuals) / (count - 1) / spread)
    return Slope(rise * HOUR_S, error * _widening(residuals) * HOUR_S)


def _apart(blocks: Points, values: Sequence[float]) -> list[float]:
    """Return how far each of *values* is from the mean of its kind."""
    of_kind: dict[str, list[float]] = {}
    for block, value in zip(blocks, values, strict=True):
        of_kind.setdefault(block.kind, []).append(value)
    means = {kind: sum(its) / len(its) for kind, its in of_kind.items()}
    return [value - means[block.kind] for block, value in zip(blocks, values, strict=True)]


def block_means(points: Points) -> list[Point]:
    """Return the means of *points*, one for each time that a trouble was met."""
    means = []
    for kind, met in itertools.groupby(points, lambda point: point.kind):
        its = list(met)
        at, value = (sum(each) / len(its) for each in ([p.at for p in its], [p.value for p in its]))
        means.append(Point(at, value, kind))
    return means


def _widening(residuals: Sequence[float]) -> float:
    """Return by how much an error is too small where one residual foretells the next (Bayley and Hammersley, 1946)."""
    power = sum(residual**2 for residual in residuals)
    if power == 0:
        return 1.0
    correlation = sum(a * b for a, b in itertools.pairwise(residuals)) / power
    correlation = min(max(correlation, 0.0), CORRELATION_MAX)
    return math.sqrt((1 + correlation) / (1 - correlation))
