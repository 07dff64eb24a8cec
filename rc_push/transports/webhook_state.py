"""What of a webhook subscription outlives the process? Its token above all: without it, nobody knows whose a post is.

Kept beside the cursor, not in it: a token has to be stored before RingCentral is told of it, and while a subscription
moves from one transport to another, the cursor is still the other's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import structlog

from rc_push.envelope import Cursor, Envelope, ms_from_iso
from rc_push.payload import when_and_whose
from rc_push.transports.seen import later

log = structlog.get_logger()

NAME = "webhook"
TOKEN_BYTES = 32
# No order is documented: what was sent so much earlier may come later …
ORDER_SLACK_MS = 1000
# … and by as much more as posts were late, for so long after one was.
LATE_MEMORY_MS = 60_000


class Store(Protocol):
    """Where it is kept (`journal.Journal`)."""

    async def load_webhook(self, subscription: str) -> bytes | None:
        """Return what was saved last, or None."""
        ...

    async def save_webhook(self, subscription: str, state: bytes) -> None:
        """Keep *state* durably."""
        ...

    async def load_webhooks(self) -> dict[str, bytes]:
        """Return what was saved last for each subscription."""
        ...


class Hook(msgspec.Struct, omit_defaults=True):
    """One webhook subscription at RingCentral. *id* is empty as long as RingCentral has not said it.

    *event_filters* are those that we asked for, *held* those that RingCentral then said it has, by which its later
    answers are measured; at *held_at_ms* it last did. *asked_at_ms* is when we began to ask for it.
    """

    token: str
    address: str
    id: str = ""
    event_filters: list[str] = []
    held: list[str] = []
    asked_at_ms: int = 0
    held_at_ms: int = 0
    expires_at_ms: int = 0

    def __repr__(self) -> str:
        """Hide the token."""
        return f"Hook({self.id!r}, {self.address!r})"


class State(msgspec.Struct, omit_defaults=True):
    """The present one, and those that it has replaced, until RingCentral has deleted them."""

    hook: Hook | None = None
    past: list[Hook] = []

    def hooks(self) -> Iterator[Hook]:
        """Yield all, the present one first."""
        if self.hook:
            yield self.hook
        yield from self.past


class CursorState(msgspec.Struct, omit_defaults=True):
    """What a cursor keeps. *heard_at_ms* is when RingCentral last reached us."""

    subscription_id: str = ""
    heard_at_ms: int = 0


class Seen:
    """How far we have seen: everything that was sent before *at_ms* is stored; None = there is no cursor yet."""

    def __init__(self, cursor: Cursor | None, wall: Callable[[], float]) -> None:
        self._wall = wall
        # A clock that was put back must not hide what is missing.
        self.at_ms = min(cursor.seen_at_ms, self.now_ms()) if cursor else None
        known = _cursor_state_from(cursor.state) if cursor and cursor.transport == NAME else CursorState()
        self.heard_at_ms = max(known.heard_at_ms, self.at_ms or 0)
        self._late, self._behind = _Most(), _Most()

    def now_ms(self) -> int:
        """Return the wall clock in ms since 1970 UTC."""
        return round(self._wall() * 1000)

    def move(self, at_ms: int) -> None:
        """Move on to *at_ms*, never back, and never ahead of the clock."""
        self.at_ms = later(self.at_ms or 0, at_ms, self.now_ms())

    def hear(self, envelopes: Sequence[Envelope]) -> None:
        """Move on by what has come.

        Each event is a post of its own, and after an outage RingCentral is late with them. As late as some were, others
        may be that are still to come.
        """
        at_ms = envelopes[-1].received_at_ms
        lates_ms = list(map(_late_ms, envelopes))
        # What comes before it is sent tells by how much our clock is behind RingCentral's.
        self._behind.note(-min(lates_ms), at_ms)
        self._late.note(max(lates_ms) + self._behind.ms, at_ms)
        self.heard_at_ms = max(self.heard_at_ms, at_ms - ORDER_SLACK_MS - self._late.ms)
        self.move(at_ms - ORDER_SLACK_MS - self._late.ms)

    def cursor(self, subscription: str, subscription_id: str, *, is_clean: bool) -> Cursor:
        """Return what the journal keeps of it."""
        state = msgspec.json.encode(CursorState(subscription_id, self.heard_at_ms))
        return Cursor(subscription, NAME, self.now_ms() if self.at_ms is None else self.at_ms, state, is_clean)


class _Most:
    """The most that there was lately; nothing before the first, and never less."""

    def __init__(self) -> None:
        self.ms = self._at_ms = 0

    def note(self, ms: int, at_ms: int) -> None:
        """Take in what there was at *at_ms*; what is older, or from before the clock was put back, is forgotten."""
        if ms >= self.ms or not 0 <= at_ms - self._at_ms <= LATE_MEMORY_MS:
            self.ms, self._at_ms = max(0, ms), at_ms


def _late_ms(envelope: Envelope) -> int:
    """Return how long after it was sent *envelope* came, where it says when that was."""
    sent_at, _ = when_and_whose(envelope)
    return envelope.received_at_ms - (ms_from_iso(sent_at) or envelope.received_at_ms)


def new_hook(address: str, event_filters: list[str], at_ms: int) -> Hook:
    """Return one that nobody has asked for yet, with a token that nobody can guess."""
    return Hook(secrets.token_urlsafe(TOKEN_BYTES), address, event_filters=event_filters, asked_at_ms=at_ms)


def state_from(saved: bytes | None, subscription: str) -> State:
    """Return what was saved; nothing where that cannot be read."""
    if saved is None:
        return State()
    try:
        return msgspec.json.decode(saved, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        log.warning("webhook_state_unusable", subscription=subscription)
        return State()


def _cursor_state_from(state: bytes) -> CursorState:
    """Return what a cursor of ours keeps; nothing where that cannot be read."""
    try:
        return msgspec.json.decode(state, type=CursorState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return CursorState()
