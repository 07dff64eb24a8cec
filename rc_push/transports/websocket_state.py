"""What does a cursor keep for the gateway? Its session, and what the subscription in it is known to be.

Knows the data; knows nothing of sockets or frames.
"""

from __future__ import annotations

import msgspec
import structlog

from rc_push.envelope import Cursor
from rc_push.protocol.frames import Wsc

log = structlog.get_logger()

NAME = "websocket"


class State(msgspec.Struct, omit_defaults=True):
    """The session and its subscription, all empty where none is known.

    *event_filters* are those that we asked for, *held* those that the server said it holds when we asked it again
    (None = it never told), *refused* which of them it does not serve, *is_all_refused* that these are all.
    *proven_at_ms* is when it last showed that it serves the subscription at all: by an answer, or by an event.
    *rate_per_s* is the rate of events then. *was_refused*: it has refused to tell, as where login or subscription are
    over. *behind_ms* is by how much our clock is behind RingCentral's, as far as is known.
    """

    wsc: Wsc | None = None
    subscription_id: str = ""
    event_filters: list[str] = []
    held: list[str] | None = None
    refused: str = ""
    is_all_refused: bool = False
    proven_at_ms: int = 0
    rate_per_s: float = 0.0
    was_refused: bool = False
    behind_ms: int = 0

    def forget_subscription(self) -> None:
        """Note that there is none, or will be another."""
        self.subscription_id, self.held, self.refused, self.was_refused = "", None, "", False
        self.is_all_refused = False


def state_from(cursor: Cursor | None) -> State:
    """Return what *cursor* keeps; an empty state where that is nothing of ours."""
    if cursor is None or cursor.transport != NAME:
        return State()
    try:
        return msgspec.json.decode(cursor.state, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        log.warning("cursor_unusable", subscription=cursor.subscription)
        return State()
