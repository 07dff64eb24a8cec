"""How do events come by webhook? RingCentral posts, and a post is answered when it is stored.

Knows what a post means for the journal; knows nothing of HTTP, or of what is due with the subscription.

Two tasks share a link. `read` takes the posts that are there, as one batch, and answers them when it is called again:
then they are stored. The keeper looks after the subscription, and puts what that changes before `read`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from rc_push.config import SubscriptionConfig
from rc_push.config.webhook import place_from
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable, ms_from_iso
from rc_push.errors import ConfigError, Problem, RcPushError
from rc_push.event_types import REMINDER
from rc_push.payload import envelope_from_payload
from rc_push.transports import LEAVE_WITHIN_S, Evidence
from rc_push.transports.changes import Changes
from rc_push.transports.subscription_calls import Rest
from rc_push.transports.webhook_keeper import LOOK_EVERY_S, Keeper
from rc_push.transports.webhook_posts import BAD, OK, WAITING_MAX, Post, Posts
from rc_push.transports.webhook_server import WebhookServers
from rc_push.transports.webhook_state import NAME, Seen, Store, state_from
from rc_push.transports.webhook_subscription import WebhookSubscription
from rc_push.transports.webhook_tls import Certificate

log = structlog.get_logger()

# Posts of one batch at the most, so that one commit stays short.
BATCH_MAX_POSTS = 1024


class WebhookTransport:
    """RingCentral's posts, for one subscription."""

    name = NAME
    # undocumented: whether RingCentral posts again what was not answered
    recovery_window_s = 0.0

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: Rest,
        store: Store,
        servers: WebhookServers,
        *,
        look_every_s: float = LOOK_EVERY_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.subscription = subscription
        self._account = account
        self._store = store
        self._servers = servers
        self._look_every_s = look_every_s
        self._wall = wall

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[WebhookLink]:
        """Listen, and look after the subscription. Raises UnreachableError where the daemon cannot listen."""
        config = self.subscription
        place = place_from(config.listen or "")
        if place is None or config.address is None:
            key, remedy = f"subscriptions.{config.name}", "leave address and listen in the file until it has moved"
            raise ConfigError([Problem(key, "a webhook needs address and listen", remedy)])
        certificate = Certificate(config.certificate, config.key) if config.certificate and config.key else None
        state = state_from(await self._store.load_webhook(config.name), config.name)
        seen = Seen(cursor, self._wall)

        def new_keeper(put: Callable[[Batch], asyncio.Event]) -> Keeper:
            calls = WebhookSubscription(config, self._account)
            return Keeper(config, calls, self._store, state, seen, put=put, look_every_s=self._look_every_s)

        link = WebhookLink(config, seen, new_keeper, wall=self._wall)
        async with self._servers.serving(place, certificate, link):
            link.begin()
            try:
                yield link
            except asyncio.CancelledError:
                link.release()
                raise
            finally:
                await link.abort()


class WebhookLink:
    """The posts for one subscription (`webhook_server.Desk`), and the task that keeps the subscription alive."""

    def __init__(
        self,
        config: SubscriptionConfig,
        seen: Seen,
        new_keeper: Callable[[Callable[[Batch], asyncio.Event]], Keeper],
        *,
        wall: Callable[[], float],
    ) -> None:
        self._config = config
        self._seen = seen
        self._source = Source(config.account, config.name, NAME)
        self._posts = Posts(self._notice, wall, self._sent_at_ms)
        self._answers: list[tuple[Post, int]] = []
        self._changes = Changes()
        self._changed = asyncio.Event()
        self._has_closed = False
        self._has_open_gap = True  # there may be one from before this link
        self._keeper = new_keeper(self._put)
        self._keeping: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------------- for the server

    @property
    def tokens(self) -> Sequence[bytes]:
        """See `Desk.tokens`."""
        return self._keeper.tokens

    @property
    def is_validating(self) -> bool:
        """See `Desk.is_validating`."""
        return self._keeper.is_validating

    @property
    def trusted_proxies(self) -> Sequence[str]:
        """See `Desk.trusted_proxies`."""
        return self._config.trusted_proxies

    async def deliver(self, body: bytes, remote: str) -> int:
        """See `Desk.deliver`."""
        return await self._posts.deliver(body, remote)

    def miss(self, ago_s: float) -> None:
        """See `Desk.miss`."""
        self._posts.miss(ago_s)

    # ------------------------------------------------------------------------------------------- for the receive loop

    @property
    def evidence(self) -> Evidence:
        """What is known of the subscription."""
        return self._keeper.evidence

    @property
    def is_proven(self) -> bool:
        """Say whether RingCentral has confirmed the subscription, having reached us."""
        return self._keeper.is_proven

    @property
    def subscription_id(self) -> str:
        """RingCentral's id of the subscription; empty where there is none yet."""
        return self._keeper.subscription_id

    def begin(self) -> None:
        """Begin to look after the subscription."""
        self._keeping = asyncio.create_task(self._keeper.run(), name="webhook-keep")
        self._keeping.add_done_callback(lambda _: self._notice())

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`). What the last one held is answered: it is stored."""
        self.acknowledge()
        while True:
            self._changed.clear()
            if (change := self._changes.take()) is not None:
                return change
            if self._posts or self._posts.refused:
                return self._take_posts(BATCH_MAX_POSTS)
            if self._keeping and self._keeping.done():
                self._keeping.result()
            await self._changed.wait()

    async def close(self) -> Batch:
        """Take no more posts; return those that are there. RingCentral keeps the subscription, but not its posts."""
        self._posts.close()
        await self._cancel()
        batch = self._take_posts(WAITING_MAX)
        self._changes.move_to(batch)
        self._has_closed = True
        return batch if self._seen.at_ms is None else self._with_cursor(batch, is_clean=self.is_proven)

    async def leave(self) -> Batch:
        """End the subscription, within LEAVE_WITHIN_S or not at all, and then do what `close` does."""
        await self._cancel()
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await self._keeper.end()
        except TimeoutError:
            log.warning("webhook_not_deleted", subscription=self._config.name, error="no answer in time")
        except RcPushError as exc:  # RingCentral gives up by itself when nobody answers
            log.warning("webhook_not_deleted", subscription=self._config.name, error=str(exc))
        return await self.close()

    def release(self) -> None:
        """Note that who reads was cancelled: it goes only after it has stored what `close` gave it."""
        if self._has_closed:
            self.acknowledge()

    async def abort(self) -> None:
        """Let go of everything; who still waits for an answer is told to try again."""
        await self._cancel()
        self._posts.abandon()

    def acknowledge(self) -> None:
        """Answer what the last batch held: it is stored."""
        self._posts.settle(self._answers)
        self._answers = []
        self._changes.settle()

    async def _cancel(self) -> None:
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def _notice(self) -> None:
        """Let the waiting `read` look."""
        self._changed.set()

    # ------------------------------------------------------------------------------------------------ posts → a batch

    def _take_posts(self, limit: int) -> Batch:
        batch = Batch(self._config.name)
        for post in self._posts.take(limit):
            self._answers.append((post, self._take_post(post, batch)))
        self._admit_refused(batch)
        if batch.envelopes:
            self._end_gap(batch)
            self._seen.hear(batch.envelopes)
            if any(envelope.type == REMINDER for envelope in batch.envelopes):
                self._keeper.remind()
        return self._with_cursor(batch) if batch else batch

    def _admit_refused(self, batch: Batch) -> None:
        """Admit what was not taken. As long as others wait, there will be more of it, and the gap stays open."""
        if self._posts.refused:
            since_ms, until_ms = self._posts.refused
            self._posts.refused = None
            is_open = bool(self._posts)
            self._has_open_gap = self._has_open_gap or is_open
            until = None if is_open else until_ms
            batch.gaps.append(Gap(self._config.name, NAME, since_ms, until, "posts refused", "possible"))

    def _end_gap(self, batch: Batch) -> None:
        """End what is open: posts come again, and what of them was refused is admitted by itself.

        Not where RingCentral has given up: what comes then was sent before.
        """
        if self._has_open_gap and self._keeper.is_served and not (self._posts or batch.gaps):
            batch.closes_gaps_at_ms = batch.envelopes[0].received_at_ms
            self._has_open_gap = False

    def _sent_at_ms(self, body: bytes) -> int | None:
        envelope = envelope_from_payload(body, self._source, 0)
        return ms_from_iso(envelope.timestamp) if isinstance(envelope, Envelope) else None

    def _take_post(self, post: Post, batch: Batch) -> int:
        """Put *post* into *batch*; return the status to answer with once it is stored."""
        found = envelope_from_payload(post.body, self._source, post.at_ms)
        if isinstance(found, Envelope):
            batch.envelopes.append(found)
            return OK
        reason = f"{found.reason}, from {post.remote}"
        batch.unreadables.append(Unreadable(found.raw, reason, found.source, found.received_at_ms))
        return BAD

    def _put(self, batch: Batch) -> asyncio.Event:
        """Have *batch* returned by the next `read`; the event tells that it is stored."""
        self._notice()
        return self._changes.put(self._with_cursor(batch))

    def _with_cursor(self, batch: Batch, *, is_clean: bool = False) -> Batch:
        batch.cursor = self._seen.cursor(self._config.name, self.subscription_id, is_clean=is_clean)
        return batch
