"""Has it stayed flat? Slopes of what was sampled, with their standard errors, held against bounds.

A least-squares line through the means of minutes. What is sampled hangs together from one minute to the next (a fault
lasts), so the error is widened by that much. Pure: knows numbers; knows nothing of processes or clocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two standard errors: an odd row fails one run in forty by chance.
SURE = 2.0
BLOCK_S = 60.0
# A line through fewer minutes says nothing of its own error.
BLOCKS_MIN = 6
# Minutes that hang together more closely than this are one trend, which the line has to show.
CORRELATION_MAX = 0.8
HOUR_S = 3600.0

Points = Sequence[tuple[float, float]]


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
    """Hold *points*, (seconds, value) after warming up, against *bound*."""
    slope = slope_of(points)
    means = [value for _, value in block_means(points)]
    peak = max(value for _, value in points)
    return Finding(bound, means[0], means[-1], peak, slope, _complaint(bound, peak, slope))


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


def slope_of(points: Points, block_s: float = BLOCK_S) -> Slope | None:
    """Fit a line; None where there is too little to fit."""
    blocks = block_means(points, block_s)
    count = len(blocks)
    if count < BLOCKS_MIN:
        return None
    mean_at = sum(at for at, _ in blocks) / count
    mean = sum(value for _, value in blocks) / count
    spread = sum((at - mean_at) ** 2 for at, _ in blocks)
    rise = sum((at - mean_at) * (value - mean) for at, value in blocks) / spread
    residuals = [value - mean - rise * (at - mean_at) for at, value in blocks]
    error = math.sqrt(sum(residual**2 for residual in residuals) / (count - 2) / spread)
    return Slope(rise * HOUR_S, error * _widening(residuals) * HOUR_S)


def block_means(points: Points, block_s: float = BLOCK_S) -> list[tuple[float, float]]:
    """Return the means of *points* by blocks of *block_s*, at the middle of each; the last only where it is whole."""
    if not points:
        return []
    began = points[0][0]
    blocks: dict[int, list[float]] = {}
    for at, value in points:
        blocks.setdefault(int((at - began) // block_s), []).append(value)
    whole = max(1, int((points[-1][0] - began) // block_s))
    return [
        (began + (number + 0.5) * block_s, sum(values) / len(values))
        for number, values in sorted(blocks.items())
        if number < whole
    ]


def _widening(residuals: Sequence[float]) -> float:
    """Return by how much an error is too small where one residual foretells the next (Bayley and Hammersley, 1946)."""
    power = sum(residual**2 for residual in residuals)
    if power == 0:
        return 1.0
    correlation = sum(a * b for a, b in itertools.pairwise(residuals)) / power
    correlation = min(max(correlation, 0.0), CORRELATION_MAX)
    return math.sqrt((1 + correlation) / (1 - correlation))
