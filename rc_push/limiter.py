"""When may the next REST request be sent? RingCentral's rate limits, as far as they are known.

Knows groups, windows and penalties; knows nothing of clocks, tasks or HTTP (`now` is an argument).

Each request that RingCentral gets during a penalty starts the penalty anew, so the answer to a 429 is silence:
of the group where the answer carries X-Rate-Limit headers, else (a limit of the account, the address or the whole
service) of everything. Source: RingCentral's rate limit guide; protocol.md 1.4.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# Requests per user, app and window. Source: RingCentral's defaults; the headers of answers correct them.
LIMITS = {"light": 50, "medium": 40, "heavy": 10, "auth": 5}
WINDOW_S = 60.0
LIMIT_MAX = 10_000  # no matter what a header says: each request of a window is remembered
# The server counts a request when it arrives, we when it is sent.
MARGIN_S = 1.0

# Where a 429 has no Retry-After: the penalty of a group, and the least that RingCentral asks for otherwise.
GROUP_SILENCE_S = 60.0
SILENCE_S = 30.0
# A longer Retry-After is taken for a mistake: RingCentral's penalties are a minute.
RETRY_AFTER_MAX_S = 3600.0

# Source: x-throttling-group in RingCentral's OpenAPI file. What is not here counts as medium until an answer says more.
GROUPS = {
    "POST /restapi/oauth/token": "auth",
    "POST /restapi/oauth/revoke": "auth",
    "POST /restapi/oauth/wstoken": "auth",
    "GET /restapi/v1.0/subscription": "light",
    "GET /restapi/v1.0/subscription/*": "light",
    "POST /restapi/v1.0/subscription/*/renew": "light",
}
UNKNOWN_GROUP = "medium"

# Less is the rounding of a clock, not a wait.
TICK_S = 0.001

# A path segment with a digit is an id, but for versions such as v1.0.
_ID = re.compile(r"(?<=/)(?!v\d)[^/]*\d[^/]*")


@dataclass(slots=True)
class _Group:
    limit: int
    window_s: float = WINDOW_S
    silent_until: float = -math.inf
    sent: deque[float] = field(default_factory=deque)

    def left(self, now: float) -> int:
        """Return how many more the window has room for."""
        used = sum(1 for at in self.sent if at > now - self.window_s - MARGIN_S)
        return max(0, self.limit - used)

    def free_at(self, now: float) -> float:
        """Return when the sliding window has room for one more; forget what has left it."""
        while self.sent and self.sent[0] <= now - self.window_s - MARGIN_S:
            self.sent.popleft()
        if len(self.sent) < self.limit:
            return now
        return self.sent[len(self.sent) - self.limit] + self.window_s + MARGIN_S


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """What is known of one group: its *limit* a window, how many of these are *left* now, how long it is silent."""

    limit: int
    left: int
    silence_s: float


class Limiter:
    """The limits of one account. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._groups = {name: _Group(limit) for name, limit in LIMITS.items()}
        self._group_of = dict(GROUPS)
        self._silent_until = -math.inf

    def reserve(self, method: str, path: str, *, now: float) -> float:
        """Count one request as sent and return 0, or count nothing and return the seconds before it is worth asking."""
        group = self._group(method, path)
        wait_s = max(group.free_at(now), group.silent_until, self._silent_until) - now
        if wait_s > TICK_S:
            return wait_s
        group.sent.append(now)
        return 0.0

    def learn(self, method: str, path: str, status: int, headers: Mapping[str, str], *, now: float) -> None:
        """Take in what an answer says: its group, its limits, and after a 429 how long to be silent."""
        lower = {name.lower(): value for name, value in headers.items()}
        name = lower.get("x-rate-limit-group", "").strip().lower()
        if name:
            self._group_of[_endpoint(method, path)] = name
            self._groups.setdefault(name, _Group(LIMITS[UNKNOWN_GROUP]))
        group = self._group(method, path)
        _correct(group, lower, now)
        if status != 429:  # noqa: PLR2004 - an HTTP status says it best
            return
        is_of_group = any(header.startswith("x-rate-limit-") for header in lower)
        silence_s = retry_after_s_from(lower)
        if silence_s is None:
            silence_s = GROUP_SILENCE_S if is_of_group else SILENCE_S
        if is_of_group:
            group.silent_until = max(group.silent_until, now + silence_s)
        else:
            self._silent_until = max(self._silent_until, now + silence_s)

    def silence_s(self, method: str, path: str, *, now: float) -> float:
        """Return how long a penalty still forbids this request, in seconds."""
        return max(0.0, self._group(method, path).silent_until - now, self._silent_until - now)

    def statistics(self, *, now: float) -> dict[str, GroupStatistics]:
        """Return what is known of every group, by its name."""
        return {
            name: GroupStatistics(
                group.limit, group.left(now), max(0.0, group.silent_until - now, self._silent_until - now)
            )
            for name, group in self._groups.items()
        }

    def _group(self, method: str, path: str) -> _Group:
        return self._groups[self._group_of.get(_endpoint(method, path), UNKNOWN_GROUP)]


def retry_after_s_from(headers: Mapping[str, str]) -> float | None:
    """Return the Retry-After of an answer, in seconds; None where there is none that is a number."""
    for name, value in headers.items():
        if name.lower() == "retry-after" and (seconds := _number(value)) is not None:
            return min(max(seconds, 1.0), RETRY_AFTER_MAX_S)
    return None


def _correct(group: _Group, headers: Mapping[str, str], now: float) -> None:
    """Correct *group* by the X-Rate-Limit headers. Others may share our limit, so what we did not send counts too."""
    limit, window_s = _number(headers.get("x-rate-limit-limit", "")), _number(headers.get("x-rate-limit-window", ""))
    remaining = _number(headers.get("x-rate-limit-remaining", ""))
    if limit is not None and limit >= 1:
        group.limit = min(int(limit), LIMIT_MAX)
    if window_s is not None and 0 < window_s <= RETRY_AFTER_MAX_S:
        group.window_s = window_s
    if remaining is not None:
        group.free_at(now)
        unseen = group.limit - int(remaining) - len(group.sent)
        group.sent.extend([now] * min(unseen, group.limit))


def _number(text: str) -> float | None:
    """Return the number in a header; these come from outside, and `float` takes more than numbers."""
    text = text.strip()
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII) else None


def _endpoint(method: str, path: str) -> str:
    return f"{method} {_ID.sub('*', path.partition('?')[0])}"
