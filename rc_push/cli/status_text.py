"""How does the status look to people? Lines of text, in colour where there is a terminal.

A pure function of the document that `status --json` prints, and of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from rc_push.envelope import ms_from_iso
from rc_push.terminal import printable

COLOURS = {
    **dict.fromkeys(("ok", "live", "running"), "green"),
    **dict.fromkeys(("degraded", "connecting", "subscribing", "recovering", "paused", "trying"), "yellow"),
    **dict.fromkeys(("down", "failing", "refused"), "red"),
}
# Of these, what is 0 is no news.
HANDLER_COUNTS = {
    "pending": "pending",
    "waiting": "waiting",
    "inHand": "in hand",
    "parked": "parked",
    "dropped": "dropped",
    "failures": "failures",
}
TROUBLES = {"rateLimited": "rate limited", "unreachable": "unreachable"}
NAME_WIDTH, STATE_WIDTH = 16, 12
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def status_lines(document: dict[str, Any], now: float) -> Iterator[str]:
    """Yield the lines for *document*, seen from the epoch second *now*."""
    yield _head(document, now)
    yield from (f"  {printable(reason)}" for reason in document["reasons"])
    yield from _part("accounts", [_account(one, now) for one in document["accounts"]])
    yield from _part("subscriptions", [line for one in document["subscriptions"] for line in _subscription(one, now)])
    yield from _part("handlers", [line for one in document["handlers"] for line in _handler(one, now)])
    yield from _part("journal", _journal(document, now))
    yield from _part("next", [f"{printable(one['what'])}: {printable(one['do'])}" for one in document["actions"]])


def _part(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield click.style(title, bold=True)
        yield from (f"  {line}" for line in lines)


def _head(document: dict[str, Any], now: float) -> str:
    daemon = document["daemon"]
    if daemon is None:
        why = "does not answer" if document["isRunning"] else "is not at work"
        return f"{_coloured(document['state'], 0)}  rc-push {why}; this is what the journal says"
    up = _span(now, daemon["startedAt"])
    told = (
        f"rc-push {daemon['version']}, up for {up}, pid {daemon['pid']}, generation {document['config']['generation']}"
    )
    return f"{_coloured(document['state'], 0)}  {told} of the file"


def _account(one: dict[str, Any], now: float) -> str:
    token = f"token good for {_span_until(now, one['tokenExpiresAt'])}" if one["tokenExpiresAt"] else "no token yet"
    limits = "  ".join(f"{name} {group['left']}/{group['limit']}" for name, group in one["budget"].items())
    silent = [name for name, group in one["budget"].items() if group["silenceS"]]
    silence = f"  silent in {', '.join(silent)}" if silent else ""
    trouble = "".join(f"  {word} {one[key]}" for key, word in TROUBLES.items() if one[key])
    return f"{one['account']:<{NAME_WIDTH}} {token}  calls left {limits}{silence}{trouble}"


def _subscription(one: dict[str, Any], now: float) -> Iterator[str]:
    state = "refused" if one.get("isFinal") else one["state"]
    counts = "  ".join(f"{name} {one[name]}" for name in ("stored", "duplicate", "unreadable") if one[name])
    name = f"{one['subscription']:<{NAME_WIDTH}} {_coloured(state, STATE_WIDTH)}"
    if "since" not in one:  # from the journal
        yield f"{name} {counts or 'no events yet'}"
        return
    last = f"last event {_span(now, one['lastEventAt'])} ago" if one["lastEventAt"] else "no event yet"
    told = (f"for {_span(now, one['since'])}", one["transport"], f"{one['perMinute']}/min", last, counts)
    yield f"{name} {'  '.join(told)}".rstrip()
    if state != "live":
        again = f"; next try in {_span_until(now, one['nextTryAt'])}" if one["nextTryAt"] else ""
        yield f"  {printable(one['why'])}{again}"


def _handler(one: dict[str, Any], now: float) -> Iterator[str]:
    counts = "  ".join(f"{word} {one[key]}" for key, word in HANDLER_COUNTS.items() if one.get(key))
    lag = f"{one['lagS']:.1f} s behind  " if one.get("lagS") else ""
    yield (
        f"{one['handler']:<{NAME_WIDTH}} {_coloured(one['state'], STATE_WIDTH)}"
        f" {lag}delivered {one.get('delivered', '?')}  {counts}".rstrip()
    )
    if one.get("lastError"):
        again = f"; next try in {_span_until(now, one['nextTryAt'])}" if one["nextTryAt"] else ""
        yield f"  {printable(one['lastError'])}{again}"


def _journal(document: dict[str, Any], now: float) -> list[str]:
    journal, events, gaps = document["journal"], document["events"], document["gaps"]
    if "path" not in journal:
        return []
    limit = f" of {_size(journal['maxBytes'])}" if journal.get("maxBytes") else ""
    state = f"{_coloured(journal['state'], 0)}  " if "state" in journal else ""
    oldest = f"the oldest {_span(now, events['oldestAt'])} old" if events["oldestAt"] else "none yet"
    of_gaps = f"{gaps['open']} open, {gaps['lastDay']} within a day" if gaps["lastDay"] else "none within a day"
    return [
        f"{state}{_size(journal['liveBytes'])}{limit} in use, {_size(journal['diskFreeBytes'])} free on the disk",
        f"events  {events['lastMinute']}/min  {events['lastHour']}/h  position {events['head']}  {oldest}",
        f"gaps    {of_gaps}",
    ]


def _coloured(state: str, width: int) -> str:
    return click.style(f"{state:<{width}}", fg=COLOURS.get(state, "white"), bold=not width)


def _span(now: float, since: str | None) -> str:
    """Return how long ago *since* was."""
    return _duration(now - _seconds(since, now))


def _span_until(now: float, until: str | None) -> str:
    return _duration(_seconds(until, now) - now)


def _seconds(instant: str | None, now: float) -> float:
    ms = ms_from_iso(instant) if instant else None
    return now if ms is None else ms / 1000


def _duration(seconds: float) -> str:
    """Return *seconds* in its two largest units that matter."""
    left = max(0, round(seconds))
    if left < MINUTE_S:
        return f"{left} s"
    if left < HOUR_S:
        return f"{left // MINUTE_S} min"
    if left < DAY_S:
        return f"{left // HOUR_S} h {left % HOUR_S // MINUTE_S} min"
    return f"{left // DAY_S} d {left % DAY_S // HOUR_S} h"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004 - as it reads
