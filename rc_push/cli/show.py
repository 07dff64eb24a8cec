"""How does an event look on a terminal? Text for people, safe whatever RingCentral's users wrote.

Knows envelopes; knows nothing of where they come from.
"""

from __future__ import annotations

import math
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from rc_push.envelope import Envelope, ms_from_iso
from rc_push.local_time import local_moment, local_time
from rc_push.terminal import printable, unobeyed_json

SUMMARY_MAX_LENGTH = 60
# Of a second line.
TEXT_MAX_LENGTH = 160
PEOPLE_MAX = 3
IDS = {"chat": "groupId", "by": "creatorId", "session": "telephonySessionId"}
# The family's first word → colour.
COLOURS = {"post": "green", "group": "cyan", "sms": "magenta", "voicemail": "yellow", "telephony": "blue"}

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def time_of_day(ms: int) -> str:
    """Return *ms* since 1970 as local time with milliseconds, behind its date where that is not today's."""
    return local_time(ms / 1000, time.time(), "milliseconds")


def event_line(envelope: Envelope, *, with_date: bool = False) -> str:
    """Return one coloured line: position, time, type, subscription, what it is about."""
    moment = local_moment(envelope.received_at_ms / 1000)
    when = f"{moment.date()} " if with_date else ""
    colour = COLOURS.get(envelope.type.partition(".")[0], "white")
    recovered = click.style(f" {envelope.origin}", fg="yellow") if envelope.origin != "live" else ""
    return (
        f"{envelope.position:>7}  {when}{moment.time().isoformat('milliseconds')}  "
        f"{click.style(f'{envelope.type:<22}', fg=colour)} {envelope.subscription}{recovered}  {summary(envelope)}"
    )


def event_lines(envelope: Envelope) -> list[str]:
    """Return `event_line`, and a second one where there is more to tell: who, to whom, the whole text."""
    text = " ".join(_about_of(envelope).split())
    told = _people(envelope.body)
    if len(printable(text)) > SUMMARY_MAX_LENGTH:
        told.append(printable(text[:TEXT_MAX_LENGTH]))
    return [event_line(envelope), *([click.style(f"{'':>23}{'  '.join(told)}", dim=True)] if told else [])]


def _people(body: Any) -> list[str]:
    """Return who an event is from and to, as far as it says so."""
    if not isinstance(body, dict):
        return []
    party = body["parties"][0] if isinstance(body.get("parties"), list) and body["parties"] else body
    party = party if isinstance(party, dict) else body
    told = [f"{word} {', '.join(names)}" for word in ("from", "to") if (names := _names(party.get(word)))]
    ids = [f"{word} {body[key]}" for word, key in IDS.items() if isinstance(body.get(key), str)]
    return [printable(text)[:TEXT_MAX_LENGTH] for text in (*told, *ids)]


def _names(people: Any) -> list[str]:
    """Return what *people*, one or a list, are called."""
    found = people if isinstance(people, list) else [people]
    names = [one.get("name") or one.get("phoneNumber") or one.get("extensionNumber") for one in found[:PEOPLE_MAX]
             if isinstance(one, dict)]  # fmt: skip
    return [str(name) for name in names if name]


def json_line(envelope: Envelope) -> str:
    """Return the line that users see, with nothing in it that a terminal would obey: JSON can say it in codes."""
    return unobeyed_json(envelope.to_json().decode())


def summary(envelope: Envelope) -> str:
    """Return what the event is about in a few words; empty where its family is not known."""
    text = printable(_about_of(envelope))
    return text if len(text) <= SUMMARY_MAX_LENGTH else text[: SUMMARY_MAX_LENGTH - 1] + "…"


def _about_of(envelope: Envelope) -> str:
    return _about(envelope.body) if isinstance(envelope.body, dict) else ""


def _about(body: dict[str, Any]) -> str:
    for key in ("text", "subject", "name", "title", "presenceStatus", "telephonyStatus", "dndStatus"):
        if isinstance(body.get(key), str) and body[key]:
            return str(body[key])
    if isinstance(body.get("parties"), list) and body["parties"] and isinstance(body["parties"][0], dict):
        status = body["parties"][0].get("status")
        return str(status.get("code", "")) if isinstance(status, dict) else ""
    if isinstance(body.get("changes"), list):
        return ", ".join(str(c.get("type", "")) for c in body["changes"] if isinstance(c, dict))
    return ""


class Since(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic since click 8.5
    """A time: `10m`, `2h`, `3d` ago, or an ISO date and time. Gives ms since 1970 UTC."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the instant; a usage error where it is none."""
        if isinstance(value, int):
            return value
        ago = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
        instant = _ms_ago(int(ago[1]) * _UNITS[ago[2]]) if ago else ms_from_iso(value)
        if instant is None:
            self.fail(f"{value!r} is no time; write 10m, 2h, 3d or 2026-11-23T10:00:00Z", param, ctx)
        return instant


class Number(click.FloatRange):
    """A number in a range; nan, which every range takes, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; a usage error where it is none."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


def _ms_ago(seconds: int) -> int | None:
    """Return the instant so long ago; None where there were no years yet."""
    try:
        return round((datetime.now(UTC) - timedelta(seconds=seconds)).timestamp() * 1000)
    except OverflowError:
        return None


def is_terminal() -> bool:
    """Say whether a person reads stdout."""
    return sys.stdout.isatty()
