"""What does a cursor keep for PubNub? The subscription as RingCentral last told it, and our place in its channels.

Knows the data and when it is out of date; knows nothing of tasks, polls or REST.
"""

from __future__ import annotations

import msgspec
import structlog

from rc_push.envelope import Cursor
from rc_push.errors import ProtocolError
from rc_push.protocol import pubnub as wire
from rc_push.protocol.crypto import Decryptor
from rc_push.protocol.subscription import SubscriptionInfo, filters_of, is_all_refused, missing_from
from rc_push.transports.seen import later

log = structlog.get_logger()

NAME = "pubnub"
# What a subscription lives where RingCentral does not say; its own default.
LIFE_S = 900.0
# A channel that another has replaced is read until it is found empty this long after that.
DRAIN_S = 60.0
# Clocks of PubNub's regions may differ by so much, so that a place can be ahead of where another one stands.
SKEW_MS = 10_000
# The present key and the one before: what was encrypted with that can be on its way, or wait in a channel.
KEYS_KEPT = 2


class Channel(msgspec.Struct, omit_defaults=True):
    """One PubNub channel, and our place in it. All that was published before *seen_at_ms* is stored, or in a gap.

    *read_at_ms* is when we last asked, and were answered, by our clock: *seen_at_ms* can be PubNub's.
    """

    address: str
    subscriber_key: str
    timetoken: str = "0"
    region: int = 0
    seen_at_ms: int = 0
    replaced_at_ms: int | None = None
    read_at_ms: int = 0

    @property
    def id(self) -> tuple[str, str]:
        """What tells it from others: a renewal may change the one, or the other."""
        return self.subscriber_key, self.address

    def begin_at(self, here: wire.Answer, earlier_s: float) -> None:
        """Set our place *earlier_s* before *here*, as far as the queue reaches."""
        self.timetoken, self.region = wire.earlier(here.timetoken, min(earlier_s, wire.QUEUE_S)), here.region

    def go_on_at(self, answer: wire.Answer, seen_at_ms: int, at_ms: int) -> None:
        """Move our place behind *answer*, which came at *at_ms*; never back, unless our clock was put back."""
        if int(answer.timetoken) >= int(self.timetoken):
            self.timetoken, self.region = answer.timetoken, answer.region
        self.seen_at_ms = later(self.seen_at_ms, seen_at_ms, at_ms)

    def since_ms(self) -> int:
        """Return from when on something may be in the channel that is not stored."""
        return self.seen_at_ms or wire.ms_from_timetoken(self.timetoken)

    def is_drained(self, answer: wire.Answer, asked_at_ms: int) -> bool:
        """Say whether *answer* means that nothing will come any more."""
        return (
            self.replaced_at_ms is not None
            and not answer.messages
            and asked_at_ms >= self.replaced_at_ms + round(DRAIN_S * 1000)
        )


class State(msgspec.Struct, omit_defaults=True):
    """The subscription, all empty where none is known. The newest channel is the last, the newest key the first.

    *renewed_at_ms* is when the request was sent whose answer is the last that we know: RingCentral may have changed
    anything since then. *heard_at_ms* is when the last message was published, by PubNub's clock: then it was alive.
    *behind_ms* is by how much ours is behind that. It can end from *expires_at_ms* on, and has ended by *ends_at_ms*:
    its life began between that request and its answer. *held* are the event filters as RingCentral first told them,
    which can be in other words than ours in *event_filters*; empty where it has not. *placed_at_ms* is when PubNub was
    last asked where it stands: our places were not ahead of that then.
    """

    subscription_id: str = ""
    event_filters: list[str] = []
    refused: str = ""
    expires_at_ms: int = 0
    ends_at_ms: int = 0
    renewed_at_ms: int = 0
    heard_at_ms: int = 0
    keys: list[str] = []
    channels: list[Channel] = []
    behind_ms: int = 0
    is_all_refused: bool = False
    held: list[str] = []
    placed_at_ms: int = 0

    def take(self, info: SubscriptionInfo, event_filters: list[str]) -> None:
        """Take in what RingCentral's answer *info* says of the subscription, which was asked for *event_filters*."""
        self.subscription_id = info.id
        self.event_filters = event_filters
        self.held = self.held or filters_of(info)
        self.refused = missing_from(info, event_filters)
        self.is_all_refused = is_all_refused(info, event_filters)

    def live_on(self, life_ms: int, asked_at_ms: int, answered_at_ms: int, now_ms: int) -> None:
        """Note a renewal. A clock that was put back since it was asked for makes it live no longer than *life_ms*."""
        self.renewed_at_ms = min(asked_at_ms, now_ms)
        self.expires_at_ms = self.renewed_at_ms + life_ms
        self.ends_at_ms = min(answered_at_ms, now_ms) + life_ms

    def is_aging(self, now_ms: int) -> bool:
        """Say whether a third of its life is over: 300 s, after which three more attempts to renew it fit in."""
        return now_ms >= self.renewed_at_ms + (self.expires_at_ms - self.renewed_at_ms) // 3

    def alive_at_ms(self) -> int:
        """Return when the subscription was certainly alive, by our clock; 0 where none is known."""
        return max(self.renewed_at_ms, self.heard_at_ms - self.behind_ms)

    def hear(self, published_at_ms: int, at_ms: int, slack_ms: int) -> int:
        """Note that a message came *at_ms*, and by PubNub's clock was published then; return when that was by ours.

        A queue that was read late shows less of how far our clock is behind than a message that came at once did. Both
        are taken to be earlier by *slack_ms*.
        """
        self.behind_ms = max(self.behind_ms, published_at_ms - at_ms)
        self.heard_at_ms = max(self.heard_at_ms, published_at_ms - slack_ms)
        return published_at_ms - slack_ms - self.behind_ms

    def find(self, channel: Channel) -> Channel | None:
        """Return the channel that we read already under the name of *channel*."""
        return next((known for known in self.channels if known.id == channel.id), None)

    def places(self) -> list[tuple[Channel, str]]:
        """Return the channels, each with our place in it."""
        return [(channel, channel.timetoken) for channel in self.channels]

    def set_back(self, places: list[tuple[Channel, str]], here: wire.Answer) -> list[Channel]:
        """Set back what was ahead of *here* already before that was asked for, as far as the queue reaches; return it.

        What told such a place may have told wrong when it was published, too.
        """
        limit_ms = wire.ms_from_timetoken(here.timetoken) + SKEW_MS
        ahead = [channel for channel, timetoken in places if wire.ms_from_timetoken(timetoken) > limit_ms]
        for channel in ahead:
            channel.begin_at(here, wire.QUEUE_S)
            self.heard_at_ms = 0
        return ahead

    def switch_to(self, channel: Channel, key: str, now_ms: int) -> None:
        """Go on with *channel* and *key*, which may be the known ones."""
        if not self.channels or self.channels[-1] is not channel:
            self.channels = [known for known in self.channels if known is not channel]
            for known in self.channels:
                known.replaced_at_ms = known.replaced_at_ms or now_ms
            self.channels.append(channel)
        channel.replaced_at_ms = None
        if key and key not in self.keys[:1]:
            self.keys = [key, *(known for known in self.keys if known != key)][:KEYS_KEPT]

    def limit_to(self, now_ms: int) -> None:
        """Take back what lies ahead of a clock that was put back: it would hide what is missing, and what is due."""
        self.expires_at_ms = min(self.expires_at_ms, now_ms + round(LIFE_S * 1000))
        self.ends_at_ms = min(self.ends_at_ms, now_ms + round(LIFE_S * 1000))
        self.renewed_at_ms = min(self.renewed_at_ms, now_ms)
        self.placed_at_ms = min(self.placed_at_ms, now_ms)
        self.behind_ms = max(self.behind_ms, self.heard_at_ms - now_ms)
        for channel in self.channels:
            channel.seen_at_ms = min(channel.seen_at_ms, now_ms)
            channel.read_at_ms = min(channel.read_at_ms, now_ms)

    def forget(self, now_ms: int) -> None:
        """Note that the subscription is gone: it ended when it was to expire, or has ended early, by now."""
        self.subscription_id = ""
        self.held = []
        self.expires_at_ms = min(self.expires_at_ms, now_ms)
        self.ends_at_ms = min(self.ends_at_ms, now_ms)


def state_from(cursor: Cursor | None, now_ms: int) -> State:
    """Return what *cursor* keeps; an empty state where that is nothing of ours."""
    if cursor is None or cursor.transport != NAME:
        return State()
    try:
        state = msgspec.json.decode(cursor.state, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        log.warning("cursor_unusable", subscription=cursor.subscription)
        return State()
    state.limit_to(now_ms)
    return state


def channel_from(info: SubscriptionInfo) -> tuple[Channel, str]:
    """Return channel and key in RingCentral's answer, the key empty where nothing is encrypted.

    Raises ProtocolError naming the field that is missing, DecryptError where the key is none.
    """
    mode = info.delivery_mode
    needed = {"address": mode.address, "subscriberKey": mode.subscriber_key}
    if mode.encryption in (True, "true"):
        needed["encryptionKey"] = mode.encryption_key
    missing = ", ".join(name for name, value in needed.items() if not value)
    if missing:
        raise ProtocolError(f"subscription answer without deliveryMode.{missing}")
    if mode.encryption_key:
        Decryptor(mode.encryption_key)  # what is no key must be said now, not at each message
    return Channel(mode.address, mode.subscriber_key), mode.encryption_key
