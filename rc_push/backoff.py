"""How long to wait after failures. Knows nothing of what failed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# Random ranges in seconds. Source: RingCentral's SDK engineers settled on this ladder after reconnect floods had
# run into the Auth group's limit (ringcentral-extensible#114).
CONNECT_LADDER_S = ((1.0, 1.0), (2.0, 6.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0), (80.0, 120.0))


def delays_s(
    ladder: tuple[tuple[float, float], ...] = CONNECT_LADDER_S, *, rng: random.Random | None = None
) -> Iterator[float]:
    """Yield the delay before each further attempt, in seconds, for ever; the last step of *ladder* repeats."""
    uniform = (rng or random).uniform
    for low, high in ladder:
        yield uniform(low, high)
    while True:
        yield uniform(*ladder[-1])


def full_jitter_s(
    failures: int, first_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return the delay after so many *failures*: a random one up to *first_s*, doubled each time, at most *max_s*.

    Full jitter spreads those best that failed together (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    doublings = min(max(0, failures - 1), 64)
    return uniform(0.0, min(max_s, first_s * 2**doublings))
