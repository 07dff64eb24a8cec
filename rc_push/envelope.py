"""What did RingCentral say, in one form? The data that flows from a transport to a handler.

Knows RingCentral's envelope and ours; knows nothing of transports, the journal or handlers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec

from rc_push import event_types

Origin = Literal["live", "recovered", "backfill", "replay"]

# What an unreadable message keeps of its raw text.
RAW_MAX_BYTES = 1 << 20
# The first and the last instant that can be written, in ms since 1970: the years 1 to 9999.
CALENDAR_MS = (-62_135_596_800_000, 253_402_300_799_999)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Ours, for the uuids of pseudo-events.
GAP_NAMESPACE = UUID("4a0c36d4-6d9c-4b63-9a52-0f5d7c9a1b7e")


# Untracked by the garbage collector, and so are envelopes that nobody has read: many wait at once.
class Source(msgspec.Struct, frozen=True, gc=False):
    """Where an envelope came from: the same for all of one connection."""

    account: str
    subscription: str
    transport: str
    origin: Origin = "live"


@lru_cache
def _fields_json(source: Source) -> bytes:
    return msgspec.json.encode(source)[1:-1]


class Envelope(msgspec.Struct, frozen=True, dict=True):
    """One event, as RingCentral's webhooks carry it, with what rc-push knows about it.

    *payload* is RingCentral's JSON object, one line of UTF-8, untouched: `uuid`, `event`, `timestamp`,
    `subscriptionId`, `ownerId`, `body`. *received_at_ms* is our wall clock in ms since 1970 UTC. *position* is the
    place in the journal, 0 before it is stored. Everything else is read from these when asked for.
    """

    uuid: str
    type: str
    payload: bytes
    source: Source
    received_at_ms: int
    position: int = 0

    @property
    def event(self) -> str:
        """The event URI, or the filter that it matched, as RingCentral sent it."""
        return str(self.fields.get("event") or "")

    @property
    def timestamp(self) -> str:
        """When RingCentral sent it, in RingCentral's spelling; empty where it did not say."""
        return str(self.fields.get("timestamp") or "")

    @property
    def subscription_id(self) -> str | None:
        """RingCentral's id of the subscription."""
        return self.fields.get("subscriptionId")

    @property
    def owner_id(self) -> str | None:
        """The extension that owns the subscription."""
        return self.fields.get("ownerId")

    @property
    def body(self) -> Any:
        """What happened: the family's own JSON; None where RingCentral left it out."""
        return self.fields.get("body")

    @cached_property
    def fields(self) -> dict[str, Any]:
        """RingCentral's object, parsed once."""
        try:
            fields: dict[str, Any] = msgspec.json.decode(self.payload)
        except (ValueError, RecursionError):  # msgspec's are ValueErrors: half surrogates, `1e999`, digits without end
            fields = json.loads(self.payload)
        return fields

    @property
    def received_at(self) -> datetime:
        """When it reached us."""
        return _instant(self.received_at_ms)

    @property
    def account(self) -> str:
        """The name of our account."""
        return self.source.account

    @property
    def subscription(self) -> str:
        """The name of our subscription."""
        return self.source.subscription

    @property
    def transport(self) -> str:
        """How it came: `websocket`, `pubnub` or `webhook`."""
        return self.source.transport

    @property
    def origin(self) -> Origin:
        """Why it came now: `live`, `recovered`, `backfill` or `replay`."""
        return self.source.origin

    def to_dict(self) -> dict[str, Any]:
        """Return what `to_json` says, parsed. It shares RingCentral's part with `fields`: change nothing in it."""
        ours = {"position": self.position, "receivedAt": iso_from_ms(self.received_at_ms)}
        return {**self.fields, "rcPush": {**ours, **msgspec.structs.asdict(self.source), "type": self.type}}

    def to_json(self) -> bytes:
        """Return the line that users see, without its newline: RingCentral's object plus `rcPush`.

        {"uuid":"6452…","event":"/team-messaging/v1/posts","timestamp":"…","subscriptionId":"2db5…","ownerId":"23…",
         "body":{…},"rcPush":{"position":1042,"receivedAt":"2026-11-23T10:00:00.190Z","account":"main",
         "subscription":"team","transport":"websocket","origin":"live","type":"post.added"}}
        """
        return b'%b,"rcPush":{"position":%d,"receivedAt":"%b",%b,"type":"%b"}}' % (
            self.payload[:-1],
            self.position,
            iso_from_ms(self.received_at_ms).encode(),
            _fields_json(self.source),
            self.type.encode(),
        )


def envelope_to_dict(envelope: Envelope) -> dict[str, Any]:
    """Return *envelope* as JSON can carry it to another process, its payload as a text, so that nothing reads it."""
    return {
        "uuid": envelope.uuid,
        "type": envelope.type,
        "payload": envelope.payload.decode(),
        "source": msgspec.structs.asdict(envelope.source),
        "receivedAtMs": envelope.received_at_ms,
        "position": envelope.position,
    }


def envelope_from_dict(fields: dict[str, Any]) -> Envelope:
    """Return the envelope in what `envelope_to_dict` gave."""
    source, payload = Source(**fields["source"]), fields["payload"].encode()
    return Envelope(fields["uuid"], fields["type"], payload, source, fields["receivedAtMs"], fields["position"])


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no envelope: its raw text (at most `RAW_MAX_BYTES` of it) and the reason. Never dropped."""

    raw: bytes
    reason: str
    source: Source
    received_at_ms: int

    @classmethod
    def of(cls, raw: bytes, reason: str, source: Source, received_at_ms: int) -> Unreadable:
        """Return the record for *raw*, cut to a bounded length; the reason then tells the whole length."""
        if len(raw) > RAW_MAX_BYTES:
            reason = f"{reason} (first {RAW_MAX_BYTES} of {len(raw)} bytes kept)"
        return cls(raw[:RAW_MAX_BYTES], reason, source, received_at_ms)


@dataclass(frozen=True, slots=True)
class Gap:
    """A span of time of which events are, or may be, missing. *until_ms* is None while it is open.

    certainty `certain`: nothing of this time was or can be received. `possible`: something of it may be missing.
    """

    subscription: str
    transport: str
    since_ms: int
    until_ms: int | None
    reason: str
    certainty: Literal["certain", "possible"]

    def closed_at(self, at_ms: int) -> Gap:
        """Return it with an end: *at_ms*, where it is open."""
        return self if self.until_ms is not None else replace(self, until_ms=max(self.since_ms, at_ms))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `gaps --json` prints."""
        return {
            "subscription": self.subscription,
            "transport": self.transport,
            "since": iso_from_ms(self.since_ms),
            "until": None if self.until_ms is None else iso_from_ms(self.until_ms),
            "reason": self.reason,
            "certainty": self.certainty,
        }


class Cursor(msgspec.Struct, frozen=True):
    """Where a transport resumes. *state* is the transport's own JSON (it can hold tokens: keep it private).

    Everything that was sent before *seen_at_ms* has been stored. *is_clean*: the last connection ended in agreement,
    with nothing in flight; it is over once another try at connecting begins.
    """

    subscription: str
    transport: str
    seen_at_ms: int
    state: bytes = b"{}"
    is_clean: bool = False

    def __repr__(self) -> str:
        """Hide the state."""
        return f"Cursor({self.subscription!r}, {self.transport!r}, seen_at={iso_from_ms(self.seen_at_ms)})"


@dataclass(slots=True)
class Batch:
    """What one read of a connection gave: stored in one transaction, cursor included.

    *received* counts the messages, duplicates and unreadables included. *closes_gaps_at_ms* closes what is open.
    *twins* counts events that came over another connection as well, under another uuid: they are duplicates that the
    journal cannot know. *account* is whose subscription it is, for what the journal itself tells of gaps.
    """

    subscription: str
    envelopes: list[Envelope] = field(default_factory=list)
    unreadables: list[Unreadable] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    cursor: Cursor | None = None
    closes_gaps_at_ms: int | None = None
    twins: int = 0
    account: str = ""

    @property
    def received(self) -> int:
        """How many messages RingCentral handed us in it."""
        return len(self.envelopes) + len(self.unreadables) + self.twins

    def add(self, later: Batch) -> None:
        """Take in what a later read gave."""
        self.envelopes += later.envelopes
        self.unreadables += later.unreadables
        if later.closes_gaps_at_ms is not None:
            self.closes_gaps_at_ms = later.closes_gaps_at_ms
            self.gaps = [gap.closed_at(later.closes_gaps_at_ms) for gap in self.gaps]
        self.gaps += later.gaps
        self.cursor = later.cursor or self.cursor
        self.twins += later.twins

    def __bool__(self) -> bool:
        """Say whether there is anything to store."""
        records = self.envelopes or self.unreadables or self.gaps
        return bool(records or self.twins or self.cursor or self.closes_gaps_at_ms is not None)


def envelope_of_gap(gap: Gap, account: str, at_ms: int) -> Envelope:
    """Return the pseudo-event that tells handlers of *gap*, in the form of RingCentral's events.

    {"uuid":"6f0c…","event":"/rc-push/gap","timestamp":"…","body":{"subscription":"team","transport":"websocket",
     "since":"…","until":null,"reason":"no connection","certainty":"possible"}}

    The uuid follows from the gap, so that the same is told once: when it opens (`until` null), and when it ends.
    """
    fields = gap.to_dict()
    uuid = str(uuid5(GAP_NAMESPACE, json.dumps(fields)))
    told = {"uuid": uuid, "event": event_types.GAP_URI, "timestamp": iso_from_ms(at_ms), "body": fields}
    payload = json.dumps(told, separators=(",", ":")).encode()
    return Envelope(uuid, event_types.GAP, payload, Source(account, gap.subscription, gap.transport), at_ms)


# ---------------------------------------------------------------------------------------------------------------- times


def iso_from_ms(ms: int) -> str:
    """Return *ms* since 1970 UTC as RingCentral writes times: `2026-11-23T10:00:00.190Z`.

    What no calendar has, as a wrong bit can make it, is told as the first or the last instant of it.
    """
    return _instant(ms).isoformat(timespec="milliseconds")[:23] + "Z"


def _instant(ms: int) -> datetime:
    first, last = CALENDAR_MS
    return _EPOCH + timedelta(milliseconds=min(max(ms, first), last))


def ms_from_iso(text: str) -> int | None:
    """Return the instant *text* in ms since 1970 UTC; None where it is no time. Takes all known spellings.

    What lies outside of the calendar in UTC is no time: `iso_from_ms` can write all that this returns.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    ms = round(instant.timestamp() * 1000)
    return ms if CALENDAR_MS[0] <= ms <= CALENDAR_MS[1] else None
