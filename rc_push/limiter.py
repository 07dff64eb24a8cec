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

import msgspec

# Requests per user, app and window. Source: RingCentral's defaults; the headers of answers correct them.
LIMITS = {"light": 50, "medium": 40, "heavy": 10, "auth": 5}
WINDOW_S = 60.0
WINDOW_MAX_S = 3600.0
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
    """*sent*: when the server had each request at the latest, that is, answered it. *waiting*: those without answer."""

    limit: int
    window_s: float = WINDOW_S
    silent_until: float = -math.inf
    sent: deque[float] = field(default_factory=deque)
    waiting: deque[float] = field(default_factory=deque)

    def left(self, now: float) -> int:
        """Return how many more the window has room for."""
        used = sum(1 for at in (*self.sent, *self.waiting) if at > now - self.window_s - MARGIN_S)
        return max(0, self.limit - used)

    def free_at(self, now: float, limit: int) -> float:
        """Return when the sliding window has room for one more; forget what has left it."""
        for times in (self.sent, self.waiting):
            while times and times[0] <= now - self.window_s - MARGIN_S:
                times.popleft()
        if self.count < limit:
            return now
        return sorted((*self.sent, *self.waiting))[self.count - limit] + self.window_s + MARGIN_S

    @property
    def count(self) -> int:
        return len(self.sent) + len(self.waiting)

    def answered(self, now: float) -> None:
        """Take note of an answer: the server may have had that request only now."""
        if self.waiting:
            self.waiting.popleft()
            self.sent.append(now)


class LimitState(msgspec.Struct, frozen=True, rename="camel"):
    """What of the limits outlives the process: the Auth group's, and when its requests were sent. Epoch seconds.

    *at* is when it was so; 0 where an earlier version has kept it.
    """

    sent: tuple[float, ...] = ()
    silent_until: float = 0.0
    limit: int = LIMITS["auth"]
    window_s: float = WINDOW_S
    at: float = 0.0


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

    def reserve(self, method: str, path: str, *, now: float, spare: int = 0) -> float:
        """Count one request as sent and return 0, or count nothing and return the seconds before it is worth asking.

        *spare* requests of the group are left to others, but for a last one.
        """
        group = self._group(method, path)
        free_at = group.free_at(now, max(1, group.limit - spare))
        wait_s = max(free_at, group.silent_until, self._silent_until) - now
        if wait_s > TICK_S:
            return wait_s
        group.waiting.append(now)
        return 0.0

    def give_back(self, method: str, path: str) -> None:
        """Take back a request that was counted and has not reached RingCentral."""
        waiting = self._group(method, path).waiting
        if waiting:
            waiting.pop()

    def learn(self, method: str, path: str, status: int, headers: Mapping[str, str], *, now: float) -> None:
        """Take in what an answer says: its group, its limits, and after a 429 how long to be silent."""
        lower = {name.lower(): value for name, value in headers.items()}
        name = lower.get("x-rate-limit-group", "").strip().lower()
        if name:
            self._group_of[_endpoint(method, path)] = name
            self._groups.setdefault(name, _Group(LIMITS[UNKNOWN_GROUP]))
        group = self._group(method, path)
        group.answered(now)
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

    def state(self, *, now: float, wall: float) -> LimitState:
        """Return what the next process has to know. *wall* is the same moment as *now*, in epoch seconds."""
        auth, shift = self._groups["auth"], wall - now
        silent_until = max(auth.silent_until, self._silent_until)
        return LimitState(
            tuple(at + shift for at in sorted((*auth.sent, *auth.waiting))),
            silent_until + shift if silent_until > now else 0.0,
            auth.limit,
            auth.window_s,
            wall,
        )

    def restore(self, state: LimitState, *, now: float, wall: float) -> None:
        """Go on with what another process has left. A clock that was put back meanwhile makes nothing wait for long."""
        auth, shift = self._groups["auth"], now - wall
        auth.limit, auth.window_s = min(max(1, state.limit), LIMIT_MAX), min(max(1.0, state.window_s), WINDOW_MAX_S)
        auth.sent.extend(min(now, at + shift) for at in state.sent[-LIMIT_MAX:])
        if state.silent_until:
            silence_s = state.silent_until - max(wall, state.at)
            auth.silent_until = now + min(silence_s, RETRY_AFTER_MAX_S)

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
    if window_s is not None and 0 < window_s <= WINDOW_MAX_S:
        group.window_s = window_s
    if remaining is not None:
        group.free_at(now, group.limit)
        unseen = group.limit - int(remaining) - group.count
        group.sent.extend([now] * min(unseen, group.limit))


def _number(text: str) -> float | None:
    """Return the number in a header; these come from outside, and `float` takes more than numbers."""
    text = text.strip()
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII) else None


def _endpoint(method: str, path: str) -> str:
    return f"{method} {_ID.sub('*', path.partition('?')[0])}"
