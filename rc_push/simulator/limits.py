"""How many calls may a user make? Sliding windows, and penalties that each further call restarts (protocol.md 1.4)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rc_push.simulator.answers import Refused, rest_error
from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs

# Calls per user, application and minute. Source: the rate limits page of RingCentral's documentation.
PER_MINUTE = {"light": 50, "medium": 40, "heavy": 10, "auth": 5}
WINDOW_S = 60.0
PENALTY_S = 60.0


@dataclass(slots=True)
class _Bucket:
    calls: deque[float] = field(default_factory=deque)
    penalty_until: float = 0.0


class RateLimits:
    """The buckets of all users. A call during a penalty restarts the penalty."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self.hits: list[dict[str, Any]] = []
        self._clock = clock
        self._knobs = knobs
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def take(self, user_id: str, group: str, headers: dict[str, str]) -> None:
        """Count a call of *user_id* in *group* and tell the state of the bucket in *headers*. Raises Refused (429)."""
        if not self._knobs.rate_limits:
            return
        now = self._clock.now()
        window_s, limit = self._clock.whole_s(WINDOW_S), self._limit_of(group)
        bucket = self._buckets.setdefault((user_id, group), _Bucket())
        while bucket.calls and bucket.calls[0] <= now - window_s:
            bucket.calls.popleft()
        allowed = now >= bucket.penalty_until and len(bucket.calls) < limit
        if allowed:
            bucket.calls.append(now)
        headers |= {
            "X-Rate-Limit-Group": group,
            "X-Rate-Limit-Limit": str(limit),
            "X-Rate-Limit-Remaining": str(limit - len(bucket.calls) if allowed else 0),
            "X-Rate-Limit-Window": str(window_s),
        }
        if not allowed:
            self._penalize(bucket, user_id, group, now)

    def hit(self, limit: str, user_id: str) -> None:
        """Record that *user_id* ran into *limit*."""
        self.hits.append({"limit": limit, "user": user_id, "at": self._clock.iso()})

    def clear(self) -> None:
        """Forget all calls and penalties."""
        self._buckets.clear()
        self.hits.clear()

    def _penalize(self, bucket: _Bucket, user_id: str, group: str, now: float) -> None:
        penalty_s = self._clock.whole_s(PENALTY_S)
        bucket.penalty_until = now + penalty_s
        self.hit(f"rate:{group}", user_id)
        raise too_many(penalty_s if self._knobs.retry_after else None)

    def _limit_of(self, group: str) -> int:
        return self._knobs.auth_limit if group == "auth" else PER_MINUTE[group]


def too_many(retry_after_s: float | None) -> Refused:
    """Return the refusal with status 429; *retry_after_s* None = RingCentral does not say how long."""
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
    return rest_error(429, "CMN-301", "Request rate exceeded", headers=headers)
