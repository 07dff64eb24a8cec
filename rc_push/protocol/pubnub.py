"""What does one answer of PubNub's long poll say? Knows its JSON; knows nothing of HTTP or of keys.

{"t":{"t":"14818963571353315","r":12},
 "m":[{"c":"54770517599294_6dda849e","d":"<ciphertext>","p":{"t":"14818963571353000","r":12},"f":0,"k":"sub-c-…"}]}

A timetoken counts 10⁻⁷ s since 1970 UTC. The outer one, *t.t*, is where the next poll goes on; it is later than that
of the last message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rc_push.errors import ProtocolError

TICKS_PER_MS = 10_000
# What a channel keeps for a client that is away: this many messages, for "up to 20 minutes" (protocol.md 5.4).
QUEUE_MESSAGES = 100
QUEUE_S = 1200.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message: *data* as published (text where encrypted), and when, in ms since 1970; None where not said."""

    data: Any
    published_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. *timetoken* and *region* are where the next poll goes on."""

    timetoken: str
    region: int
    messages: list[Message]


def answer_from(raw: Any) -> Answer:
    """Return what the parsed answer *raw* says. Raises ProtocolError where it has no timetoken."""
    cursor = raw.get("t") if isinstance(raw, dict) else None
    timetoken = str(cursor.get("t", "")) if isinstance(cursor, dict) else ""
    if not isinstance(cursor, dict) or not is_timetoken(timetoken):
        raise ProtocolError("a PubNub answer without a timetoken", beginning=type(raw).__name__)
    region = cursor.get("r")
    messages = raw.get("m") or []
    if not isinstance(messages, list):
        raise ProtocolError("a PubNub answer whose messages are no list")
    return Answer(timetoken, region if isinstance(region, int) else 0, [_message_from(item) for item in messages])


def is_timetoken(text: str) -> bool:
    """Say whether *text* is a timetoken: ASCII digits, at most what 64 bits hold."""
    return text.isascii() and text.isdecimal() and len(text) <= 19  # noqa: PLR2004 - digits of 2⁶³


def ms_from_timetoken(timetoken: str) -> int:
    """Return *timetoken* in ms since 1970 UTC."""
    return int(timetoken) // TICKS_PER_MS


def earlier(timetoken: str, by_s: float) -> str:
    """Return the timetoken *by_s* seconds before *timetoken*."""
    return str(max(1, int(timetoken) - round(by_s * 1000 * TICKS_PER_MS)))


def _message_from(item: Any) -> Message:
    if not isinstance(item, dict) or "d" not in item:
        return Message(item, None)
    published = item.get("p")
    timetoken = str(published.get("t", "")) if isinstance(published, dict) else ""
    return Message(item["d"], ms_from_timetoken(timetoken) if is_timetoken(timetoken) else None)
