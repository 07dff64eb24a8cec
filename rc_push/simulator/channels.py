"""What does PubNub keep, and who waits for it? Channels with short queues, and the long polls on them (protocol.md 5).

Knows timetokens; knows nothing of subscriptions, keys or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rc_push.simulator.clock import Clock
from rc_push.simulator.faults import PollFault, PubNubDrop
from rc_push.simulator.knobs import Knobs

REGION = 12
TICKS_PER_MS = 10_000
# What one answer holds at most. Source: PubNub's documentation of the queue.
ANSWER_MESSAGES = 100
# A channel has a reader for this long after a poll of it, in real seconds: between two polls, a client stores.
READ_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message: *item* is how an answer tells it. *kept_until* is monotonic."""

    timetoken: int
    item: bytes
    kept_until: float


@dataclass(slots=True, eq=False)
class Channel:
    """A channel of a subscriber key. *position* is where its last poll came from, *given* the last that an answer gave.

    *read_at* is when somebody last polled it or got an answer. *dropped* counts the messages that have left the queue
    before any answer gave them.
    """

    subscriber_key: str
    name: str
    messages: deque[Message] = field(default_factory=deque)
    position: int = 0
    given: int = 0
    sent: int = 0
    dropped: int = 0
    read_at: float = -math.inf
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    polls: set[Poll] = field(default_factory=set)

    def wake(self) -> None:
        """Let the polls look at the queue."""
        for poll in self.polls:
            poll.woken.set()

    def newer(self, timetoken: int) -> list[Message]:
        """Return what was published after *timetoken*."""
        return [message for message in self.messages if message.timetoken > timetoken]


@dataclass(slots=True, eq=False)
class Poll:
    """A long poll for what is newer than *timetoken* in *channels*; 0 = for nothing but the present timetoken."""

    channels: list[Channel]
    timetoken: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    fault: PollFault | None = None

    def strike(self, fault: PollFault) -> None:
        """End it by *fault*."""
        self.fault = fault
        self.woken.set()

    def newer(self) -> list[Message]:
        """Return what is there for it, at most one answer full, in the order of publishing."""
        found = [message for channel in self.channels for message in channel.newer(self.timetoken)]
        return sorted(found, key=lambda message: message.timetoken)[:ANSWER_MESSAGES]


class Channels:
    """All channels, which exist by being asked for, and the clock that all timetokens come from."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self._clock = clock
        self._knobs = knobs
        self._channels: dict[tuple[str, str], Channel] = {}
        self._polls: set[Poll] = set()
        self._last = 0
        self._is_closing = False

    def channel(self, subscriber_key: str, name: str) -> Channel:
        """Return the channel *name* of *subscriber_key*."""
        key = (subscriber_key, name)
        if key not in self._channels:
            self._channels[key] = Channel(subscriber_key, name)
        return self._channels[key]

    def timetoken(self) -> int:
        """Return the present in 10⁻⁷ s since 1970: later than any before it, with room for one in between."""
        self._last = max(self._last + 2, self._clock.wall_ms() * TICKS_PER_MS)
        return self._last

    def publish(self, channel: Channel, data: bytes) -> None:
        """Put *data*, JSON, into the queue. The polls see it when the channel is woken."""
        timetoken = self.timetoken()
        channel.sent += 1
        item = _ITEM % (channel.sent, timetoken, channel.subscriber_key.encode(), channel.name.encode(), data)
        kept_s = self._clock.scaled_s(self._knobs.pubnub_queue_s)
        channel.messages.append(Message(timetoken, item, self._clock.now() + kept_s))
        self._cut(channel)

    async def answer(self, poll: Poll) -> bytes:
        """Return the answer to *poll*, when there is something to answer, or nothing for too long.

        Safe to cancel. Where `poll.fault` is set in the meantime, the answer means nothing.
        """
        if self._is_closing:
            poll.strike(PubNubDrop())
            return b""
        if not poll.timetoken:
            poll.timetoken = self.timetoken()
            self._note(poll)
            return _answer(poll.timetoken, [])
        self._note(poll)
        messages = poll.newer() or await self._held(poll)
        for channel in poll.channels:
            channel.read_at = self._clock.now()
            channel.given = max(channel.given, messages[-1].timetoken if messages else 0)
        return _answer(messages[-1].timetoken + 1 if messages else poll.timetoken, messages)

    async def wait_room(self, channel: Channel) -> int | None:
        """Wait until more can be published without a loss to the channel's reader; return how many messages.

        None = nobody reads it. One place stays free: to a reader, a full answer means that there may have been more.
        """
        most = max(1, min(self._knobs.pubnub_queue_size, ANSWER_MESSAGES) - 1)
        while channel.polls or self._clock.now() < channel.read_at + READ_WITHIN_S:
            self._cut(channel)
            unread = len(channel.newer(channel.position))
            if unread < most:
                return most - unread
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_WITHIN_S):
                    await channel.polled.wait()
        return None

    def strike(self, fault: PollFault) -> int:
        """Let *fault* happen to all held polls; return how many there are."""
        for poll in self._polls:
            poll.strike(fault)
        return len(self._polls)

    def clear(self) -> None:
        """Break the held polls off, and forget all channels."""
        self.strike(PubNubDrop())
        self._channels.clear()

    def close(self) -> None:
        """Break all polls off, those that come now too."""
        self._is_closing = True
        self.strike(PubNubDrop())

    def to_list(self) -> list[dict[str, Any]]:
        """Return what is known of each channel."""
        for channel in self._channels.values():
            self._cut(channel)
        return [
            {
                "subscriberKey": channel.subscriber_key,
                "channel": channel.name,
                "sent": channel.sent,
                "queued": len(channel.messages),
                "dropped": channel.dropped,
                "polls": len(channel.polls),
            }
            for channel in self._channels.values()
        ]

    async def _held(self, poll: Poll) -> list[Message]:
        """Wait for messages; return none where the poll has waited long enough."""
        self._polls.add(poll)
        for channel in poll.channels:
            channel.polls.add(poll)
        try:
            async with asyncio.timeout(self._clock.scaled_s(self._knobs.pubnub_hold_s)):
                while not poll.fault and not (messages := poll.newer()):
                    poll.woken.clear()
                    await poll.woken.wait()
                return [] if poll.fault else messages
        except TimeoutError:
            return []
        finally:
            self._polls.discard(poll)
            for channel in poll.channels:
                channel.polls.discard(poll)

    def _note(self, poll: Poll) -> None:
        """Remember where the readers of the channels are."""
        for channel in poll.channels:
            self._cut(channel)
            channel.position, channel.read_at = poll.timetoken, self._clock.now()
            channel.polled.set()
            channel.polled = asyncio.Event()

    def _cut(self, channel: Channel) -> None:
        """Take out of the queue what is too much or too old."""
        messages, now = channel.messages, self._clock.now()
        while messages and (len(messages) > self._knobs.pubnub_queue_size or messages[0].kept_until <= now):
            if messages.popleft().timetoken > channel.given:
                channel.dropped += 1


# sequence, timetoken, subscriber key, channel, data
_ITEM = (
    b'{"a":"2","f":0,"i":"RingCentral","s":%d,"p":{"t":"%d","r":'
    + str(REGION).encode()
    + b'},"k":"%b","c":"%b","d":%b}'
)


def _answer(timetoken: int, messages: Sequence[Message]) -> bytes:
    items = b",".join(message.item for message in messages)
    return b'{"t":{"t":"%d","r":%d},"m":[%b]}' % (timetoken, REGION, items)
