"""How far has a transport seen? By a clock that can be put back, and that can be behind RingCentral's.

Knows times in ms; knows nothing of transports.
"""

from __future__ import annotations


def later(known_ms: int, shown_ms: int, now_ms: int) -> int:
    """Return the later of what was known and what has been shown *now_ms*, never ahead of that.

    What lies ahead of the clock was told by one that was put back since: it would hide what is missing.
    """
    return min(max(known_ms, shown_ms) if known_ms <= now_ms else shown_ms, now_ms)
