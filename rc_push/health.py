"""Does rc-push receive what it should? One judgement over the statistics of the subscriptions, for whoever asks.

Pure functions: knows what the states mean; knows no clock, and nobody who is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rc_push.dispatch import DispatcherStatistics
from rc_push.local_time import local_time
from rc_push.receive import ReceiverStatistics
from rc_push.retention import JournalStatistics

# What a person has to look at first stands first.
WORST_FIRST = ("refused", "down", "degraded", "connecting", "subscribing", "recovering", "live")
# States that pass by themselves. RingCentral may ask us to be silent for an hour, not longer (limiter.py).
PASSING = ("connecting", "subscribing", "recovering", "down")
PASSES_WITHIN_S = 7200.0
WHY_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Health:
    """*is_settled*: each subscription is live, or has failed for good and says why. *sentence* is for people."""

    is_settled: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """*state*: `down` where nothing is received, `degraded` where something is wrong, and each of *reasons* says what.

    *is_ready*: what can be received is; waiting would not help what is not.
    """

    state: Literal["ok", "degraded", "down"]
    is_ready: bool
    reasons: tuple[str, ...]


def verdict_of(
    receivers: Sequence[ReceiverStatistics],
    dispatchers: Iterable[DispatcherStatistics],
    journal: JournalStatistics,
    mistake: str = "",
    now_at: float | None = None,
) -> Verdict:
    """Return what the state of everything amounts to. What an operator has paused, or may look into, is no fault.

    *mistake*: why the file is not in force as it is. What is not of the day of the epoch second *now_at* has its date.
    """
    reasons = [
        f"subscription {_told(receiver)} is {_state(receiver)} since {local_time(receiver.since, now_at)}"
        for receiver in receivers
        if _state(receiver) != "live"
    ]
    reasons += [
        f"handler {one.handler} fails: {_short(one.last_error)}"
        for one in dispatchers
        if one.state in ("failing", "trying")
    ]
    reasons += [f"journal: {journal.why}"] if journal.why else []
    reasons += [f"not reloaded: {_short(mistake)}"] if mistake else []
    any_comes = not receivers or any(receives(receiver) for receiver in receivers)
    is_ready = any_comes and all(map(_is_settled, receivers))
    return Verdict(("degraded" if reasons else "ok") if any_comes else "down", is_ready, tuple(reasons))


def health_of(receivers: Sequence[ReceiverStatistics], mistake: str = "") -> Health:
    """Return what the state of all subscriptions amounts to. *mistake*: why the file is not in force as it is."""
    by_state: dict[str, list[ReceiverStatistics]] = {}
    for receiver in receivers:
        by_state.setdefault(_state(receiver), []).append(receiver)
    told = [f"{state}: {_named(by_state[state])}" for state in WORST_FIRST if state in by_state]
    told = told or ["no subscriptions"]
    if mistake:
        told.append(f"not reloaded: {_short(mistake.splitlines()[0])}")
    return Health(all(map(_is_settled, receivers)), "; ".join(told))


def stuck(receivers: Iterable[ReceiverStatistics], now_at: float) -> str | None:
    """Say which receive loop has stopped moving; None where all go on. *now_at* is seconds since 1970."""
    for receiver in receivers:
        since = max(receiver.since, receiver.next_try_at or 0.0)
        if receiver.evidence.state in PASSING and not receiver.is_final and now_at > since + PASSES_WITHIN_S:
            told = f"{receiver.evidence.state} since {local_time(since, now_at)}"
            return f"the subscription {receiver.subscription} has been {told}"
    return None


def _state(receiver: ReceiverStatistics) -> str:
    return "refused" if receiver.is_final else receiver.evidence.state


def _is_settled(receiver: ReceiverStatistics) -> bool:
    """Say whether waiting would not help: with filters refused, the rest is live; a full disk is no end."""
    return receiver.is_final or _is_served(receiver)


def receives(receiver: ReceiverStatistics) -> bool:
    """Say whether events come and are stored, at least of some of its filters."""
    return _is_served(receiver) and not receiver.evidence.is_all_refused


def _is_served(receiver: ReceiverStatistics) -> bool:
    """Say whether RingCentral serves the subscription, but for what it refuses."""
    return receiver.evidence.state == "live" or (receiver.evidence.state == "degraded" and receiver.evidence.is_served)


def _named(receivers: Iterable[ReceiverStatistics]) -> str:
    return ", ".join(map(_told, receivers))


def _told(receiver: ReceiverStatistics) -> str:
    if receiver.evidence.state == "live":
        return receiver.subscription
    why = _short(receiver.evidence.why)
    again = f", next try at {local_time(receiver.next_try_at)}" if receiver.next_try_at else ""
    return f"{receiver.subscription} ({why}{again})"


def _short(why: str) -> str:
    return why if len(why) <= WHY_MAX_LENGTH else why[: WHY_MAX_LENGTH - 1] + "…"
