"""How does everything stand? One document for commands and programs, made of what the parts know of themselves.

Knows the statistics of all parts, and what the journal says; knows no clock, and nobody who asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rc_push import __version__
from rc_push.dispatch import DispatcherStatistics
from rc_push.envelope import CALENDAR_MS, iso_from_ms
from rc_push.health import receives, verdict_of
from rc_push.journal.facts import Facts
from rc_push.limiter import GroupStatistics
from rc_push.log import redact
from rc_push.receive import ReceiverStatistics
from rc_push.rest import AccountStatistics
from rc_push.retention import JournalStatistics
from rc_push.terminal import unobeyed


@dataclass(frozen=True, slots=True)
class ConfigStatistics:
    """Which configuration is in force: its *generation* counts from 1, one more for each reload that took a new one.

    *mistake*: why the file, as it was at the last reload, is not in force; empty where it is.
    """

    path: str
    fingerprint: str
    generation: int
    loaded_at: float
    mistake: str = ""


@dataclass(frozen=True, slots=True)
class AppStatistics:
    """What is known of everything that runs, at the epoch second *at*. *accounts* by their names."""

    head: int
    config: ConfigStatistics
    journal: JournalStatistics
    receivers: tuple[ReceiverStatistics, ...]
    dispatchers: tuple[DispatcherStatistics, ...]
    accounts: Mapping[str, AccountStatistics] = field(default_factory=dict)
    started_at: float = 0.0
    at: float = 0.0


def status_from(statistics: AppStatistics, facts: Facts | None, why_no_facts: str = "") -> dict[str, Any]:
    """Return the form that `status --json` prints. Without *facts* (*why_no_facts*), what only they know is left out.

    Texts that others wrote are in it (errors of RingCentral, of handlers): without secrets, on one line.
    """
    verdict = verdict_of(
        statistics.receivers, statistics.dispatchers, statistics.journal, statistics.config.mistake, statistics.at
    )
    reasons = [*verdict.reasons, *([f"the journal cannot be read: {why_no_facts}"] if facts is None else [])]
    return {
        "state": "degraded" if verdict.state == "ok" and reasons else verdict.state,
        "reasons": [told(reason) for reason in reasons],
        "isReady": verdict.is_ready,
        "at": _iso(statistics.at),
        "daemon": {"version": __version__, "pid": os.getpid(), "startedAt": _iso(statistics.started_at)},
        "config": _config(statistics.config),
        "accounts": [_account(name, account) for name, account in statistics.accounts.items()],
        "subscriptions": [subscription_to_dict(receiver) for receiver in statistics.receivers],
        "handlers": _handlers(statistics.dispatchers, {} if facts is None else facts.handlers_to_dict()),
        "events": {"head": statistics.head} | ({} if facts is None else facts.events_to_dict()),
        "gaps": {} if facts is None else facts.gaps_to_dict(),
        "journal": ({} if facts is None else facts.journal_to_dict()) | _journal(statistics.journal),
    }


def subscription_to_dict(receiver: ReceiverStatistics) -> dict[str, Any]:
    """Return one of the part `subscriptions`. Counts are those since the start of the daemon."""
    return {
        "subscription": receiver.subscription,
        "transport": receiver.transport,
        "state": receiver.evidence.state,
        "why": told(receiver.evidence.why),
        "since": _iso(receiver.since),
        "nextTryAt": _iso(receiver.next_try_at),
        "isServed": receives(receiver),
        "isAllRefused": receiver.evidence.is_all_refused,
        "isFinal": receiver.is_final,
        "connections": receiver.connections,
        "rotations": receiver.rotations,
        "received": receiver.received,
        "stored": receiver.stored,
        "duplicate": receiver.duplicate,
        "unreadable": receiver.unreadable,
        "perMinute": receiver.per_minute,
        "lastEventAt": _iso(receiver.last_event_at),
        "expiresAt": _iso(receiver.evidence.expiries.subscription_at),
        "certificateExpiresAt": _iso(receiver.evidence.expiries.certificate_at),
    }


def told(text: str) -> str:
    """Return *text*, which others may have written, as it can be told: without secrets, on one line."""
    return unobeyed(redact(text))


def _config(config: ConfigStatistics) -> dict[str, Any]:
    return {
        "path": config.path,
        "fingerprint": config.fingerprint,
        "generation": config.generation,
        "loadedAt": _iso(config.loaded_at),
        "mistake": told(config.mistake),
    }


def _account(name: str, account: AccountStatistics) -> dict[str, Any]:
    expires_at = account.expires_at
    return {
        "account": name,
        "ownerId": account.owner_id,
        "tokenExpiresAt": None if expires_at is None else _iso(expires_at.timestamp()),
        "calls": account.calls,
        "logins": account.logins,
        "refreshes": account.refreshes,
        "rateLimited": account.rate_limited,
        "unreachable": account.unreachable,
        "budget": {group: _budget(budget) for group, budget in account.budget.items()},
    }


def _budget(budget: GroupStatistics) -> dict[str, Any]:
    return {"limit": budget.limit, "left": budget.left, "silenceS": round(budget.silence_s, 1)}


def _handlers(dispatchers: tuple[DispatcherStatistics, ...], noted: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the part `handlers`: those that run, then those that only the journal knows."""
    running = [_handler(dispatcher) for dispatcher in dispatchers]
    found = [noted.pop(one["handler"], {}) | one for one in running]
    return [*found, *noted.values()]


def _handler(dispatcher: DispatcherStatistics) -> dict[str, Any]:
    """Return what the running handler knows. *failures* are those since the start; other counts are the journal's."""
    return {
        "handler": dispatcher.handler,
        "state": dispatcher.state,
        "position": dispatcher.position,
        "waiting": dispatcher.waiting,
        "inHand": dispatcher.in_hand,
        "failures": dispatcher.failed,
        "lastError": told(dispatcher.last_error),
        "nextTryAt": _iso(dispatcher.next_try_at),
    }


def _journal(journal: JournalStatistics) -> dict[str, Any]:
    return {
        "state": journal.state,
        "why": journal.why,
        "since": _iso(journal.since),
        "liveBytes": journal.live_bytes,
        "maxBytes": journal.max_bytes,
        "removed": journal.removed,
    }


def _iso(at: float | None) -> str | None:
    """Return the epoch second *at* as RingCentral writes times; None where there is none, or no calendar has it."""
    if at is None or not CALENDAR_MS[0] <= at * 1000 <= CALENDAR_MS[1]:
        return None
    return iso_from_ms(round(at * 1000))
