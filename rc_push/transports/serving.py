"""Does the server still serve our subscription? When it is to be asked what it holds, and what its answer means.

A connection can be alive, with every Heartbeat answered, and bring nothing: the subscription is gone, or somebody has
replaced it. Knows answers and times (`now` is monotonic seconds); knows nothing of sockets or of the journal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rc_push.errors import CredentialsRefused, ProtocolError, RateLimited, RestError, delay_asked_for_s
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol.wsg import Answered
from rc_push.transports.websocket_state import State

# The server is asked this often, however much traffic there is: events of one filter prove no other …
ASK_EVERY_S = 60.0
# … for the first time this long after it has confirmed the subscription (or after a share of the connection's life,
# where that is short), since nobody says that all its machines know of it at once …
ASK_AFTER_S, ASK_AFTER_SHARE = 2.0, 0.02
# … and once more before a bad answer is believed.
ASK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means, for people in *why*.

    held: it serves the subscription. doubted: as it seems it does not, it is asked again. lost: it does not. unknown:
    it does not say. unanswerable: it never says, to us. closed: it does not say any more over this connection. over: it
    has never said, and login or subscription seem to be over.
    """

    kind: Literal["held", "doubted", "lost", "unknown", "unanswerable", "closed", "over"]
    why: str = ""


class Proof:
    """What is known of the server's side. *state* keeps what it said, for the next connection, too."""

    def __init__(self, state: State, event_filters: Sequence[str]) -> None:
        self.proven_at = -math.inf
        self.is_proven = False
        self.is_unanswerable = False
        self.asked_at = -math.inf
        self._state = state
        self._event_filters = event_filters
        self._asking = ""
        self._ask_at = self._not_before = -math.inf
        self._is_doubted = False

    def begin(self, now: float, life_s: float) -> None:
        """Note that the server has confirmed the subscription on a connection that lives for *life_s*."""
        self.proven_at, self.is_proven = now, False
        self._asking, self._is_doubted, self.is_unanswerable = "", False, False
        self._ask_at = self._not_before = now + min(ASK_AFTER_S, ASK_AFTER_SHARE * max(0.0, life_s))

    def note(self, now: float) -> None:
        """Note that the server has just shown that it serves the subscription."""
        self.proven_at, self.is_proven = now, True

    def ask_at(self, deadline_s: float) -> float:
        """Return when to ask: regularly, and *deadline_s* after the last proof."""
        if self._asking:
            return math.inf
        after_silence = max(self.proven_at, self.asked_at) + deadline_s
        return max(self._not_before, min(self._ask_at, after_silence))

    def ask(self, message_id: str, now: float) -> None:
        """Note that the server is asked, under this id."""
        self._asking, self.asked_at, self._ask_at = message_id, now, now + ASK_EVERY_S

    def is_asked(self, message_id: str) -> bool:
        """Say whether it was asked under this id."""
        return bool(message_id) and message_id == self._asking

    def answered(self, answer: Answered, now: float) -> Verdict:
        """Return what *answer* means."""
        self._asking = ""
        if not answer.ok:
            return self._refused(answer.refusal("subscription"), now)
        try:
            info = subscriptions.info_from(answer.body)
        except ProtocolError as exc:
            return Verdict("unknown", str(exc))
        if info.id != self._state.subscription_id:
            return self._doubt("subscription replaced", now)
        if subscriptions.is_changed(self._state.held or None, info):
            return self._doubt("subscription changed", now)
        self._take(info, now)
        return Verdict("held", "subscription confirmed again")

    def _take(self, info: subscriptions.SubscriptionInfo, now: float) -> None:
        """Take in what the server holds. What it says first is what later answers are measured by."""
        state = self._state
        if not state.held:  # never told, or told without a name
            state.held = subscriptions.filters_of(info)
        state.refused = subscriptions.missing_from(info, self._event_filters)
        state.is_all_refused = subscriptions.is_all_refused(info, self._event_filters)
        self._is_doubted = self.is_unanswerable = False
        self.note(now)

    def _refused(self, exc: RestError, now: float) -> Verdict:
        if subscriptions.is_gone(exc) and self._state.held is not None:
            return self._doubt("subscription lost", now)
        if isinstance(exc, RateLimited) or exc.status >= 500:  # noqa: PLR2004 - HTTP's server errors
            self._not_before = now + delay_asked_for_s(exc)
            return Verdict("unknown", str(exc))
        says_over = isinstance(exc, CredentialsRefused) or subscriptions.is_gone(exc)
        if self._state.held is None and says_over and not self._state.was_refused:
            # Either login or subscription ended before we first asked, or it is what those are told who may not ask.
            # The next connection shows which: in the first case it cannot go on with this subscription.
            self._state.was_refused = True
            return Verdict("over", str(exc))
        if self._state.held is None or self.is_unanswerable:
            # undocumented: whether everybody may ask over the gateway. Who was never told believes in Heartbeats.
            self.is_unanswerable = self.is_proven = True
            return Verdict("unanswerable", str(exc))
        return Verdict("closed", str(exc))

    def _doubt(self, why: str, now: float) -> Verdict:
        """Have the server asked once more; then believe that the subscription is not what it was."""
        if self._is_doubted:
            return Verdict("lost", why)
        self._is_doubted = True
        self._ask_at = self._not_before = now + ASK_AGAIN_S
        return Verdict("doubted", why)
