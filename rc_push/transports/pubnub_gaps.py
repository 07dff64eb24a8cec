"""What may PubNub not have brought? The gaps of one subscription, by what its queue keeps and by when it was alive.

Knows times, all in ms since 1970 by our clock, and the state; knows nothing of tasks, polls or REST.
"""

from __future__ import annotations

from typing import Literal

from rc_push.envelope import Gap
from rc_push.protocol import pubnub as wire
from rc_push.transports.pubnub_state import NAME, Channel, State

QUEUE_MS = round(wire.QUEUE_S * 1000)


class Gaps:
    """Makes the gaps of the subscription *name*."""

    def __init__(self, name: str) -> None:
        self._name = name

    def gap(self, since_ms: int, until_ms: int | None, reason: str, certainty: Literal["certain", "possible"]) -> Gap:
        """Return a gap; open where *until_ms* is None, and empty rather than the wrong way round."""
        until_ms = None if until_ms is None else max(since_ms, until_ms)
        return Gap(self._name, NAME, since_ms, until_ms, reason, certainty)

    def before(self, channel: Channel, answer: wire.Answer, asked_at_ms: int, at_ms: int) -> list[Gap]:
        """Return what may be missing between our place and *answer*, which came at *at_ms*."""
        gaps, since_ms = [], channel.since_ms()
        away_ms = asked_at_ms - (channel.read_at_ms or channel.seen_at_ms)
        if channel.seen_at_ms and away_ms > QUEUE_MS:
            kept_since_ms = since_ms + away_ms - QUEUE_MS
            gaps.append(self.gap(since_ms, kept_since_ms, "away for too long", "certain"))
            since_ms = kept_since_ms
        if len(answer.messages) >= wire.QUEUE_MESSAGES:
            until_ms = min(answer.messages[0].published_at_ms or 0, at_ms)
            if until_ms < since_ms:  # our clock is ahead of PubNub's, or it was not said
                until_ms = at_ms
            gaps.append(self.gap(since_ms, until_ms, "queue full", "possible"))
        return gaps

    def between(self, state: State, seen_at_ms: int, began_at_ms: int) -> list[Gap]:
        """Return what is missing up to *began_at_ms*, when the subscription that we have now began.

        The one before ended when it was to expire, if not earlier: that it was alive, its last message proves. Where
        none is known, all since *seen_at_ms* is missing.
        """
        if not state.expires_at_ms:
            gaps = [self.gap(seen_at_ms, began_at_ms, "no subscription known", "certain")]
        else:
            # A message from later shows that it was renewed, and only the answer got lost.
            ended_at_ms = min(max(state.expires_at_ms, state.ends_at_ms, state.alive_at_ms()), began_at_ms)
            gaps = [
                self.gap(state.alive_at_ms(), ended_at_ms, "subscription expired", "possible"),
                self.gap(ended_at_ms, began_at_ms, "subscription expired", "certain"),
            ]
        return [gap for gap in gaps if gap.since_ms != gap.until_ms]
