"""Which posts wait for their answer? Taken in, handed to the receive loop, answered when they are stored.

Who waits too long is told so while RingCentral still listens: an answer after its 3 s counts as none. Knows bodies and
times; knows nothing of HTTP or of what the bodies mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

OK, BAD, BUSY = 200, 400, 503

# RingCentral waits for 3 s (protocol.md 6), its way to us and ours to it included.
ANSWER_WITHIN_S = 2.0
# When the event of a post was sent that was not read, nobody knows: about so long before the post began, at the most.
ON_THE_WAY_MS = 2000
# What waits at the most. Storing takes milliseconds: a longer queue would only make all answers late.
WAITING_MAX = 4096
WAITING_MAX_BYTES = 64 << 20


@dataclass(slots=True, eq=False)
class Post:
    """One post. *at_ms* is our wall clock when it had come whole, *due_at* when it has to be answered (loop time)."""

    body: bytes
    remote: str
    at_ms: int
    due_at: float
    answer: asyncio.Future[int]

    def settle(self, status: int) -> None:
        """Answer it, unless that is done, or nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(status)


class Posts:
    """The posts of one subscription. *on_post* is called when there is something to take.

    *refused* is when the first and the last of the events were sent, in ms, that were refused since somebody took note
    of it. *sent_at_ms* reads that from a body.
    """

    def __init__(
        self, on_post: Callable[[], None], wall: Callable[[], float], sent_at_ms: Callable[[bytes], int | None]
    ) -> None:
        self._on_post = on_post
        self._wall = wall
        self._sent_at_ms = sent_at_ms
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Post] = deque()
        self._taken: deque[Post] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.refused: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        """Say whether there is any to take."""
        return bool(self._queue)

    async def deliver(self, body: bytes, remote: str) -> int:
        """Take a post in; return the HTTP status to answer with, when it is known."""
        if self._is_closed:
            return BUSY
        waiting, at_ms = len(self._queue) + len(self._taken), round(self._wall() * 1000)
        if waiting >= WAITING_MAX or self._bytes + len(body) > WAITING_MAX_BYTES:
            self._note_refused(body, at_ms)
            return BUSY
        due_at = self._loop.time() + ANSWER_WITHIN_S
        post = Post(body, remote, at_ms, due_at, self._loop.create_future())
        self._queue.append(post)
        self._bytes += len(body)
        if self._timer is None:
            self._timer = self._loop.call_at(due_at, self._give_up)
        self._on_post()
        return await post.answer

    def miss(self, ago_s: float) -> None:
        """Note that an event was not read whose post began *ago_s* seconds ago."""
        if not self._is_closed:
            at_ms = round((self._wall() - ago_s) * 1000)
            self._note_missing(at_ms - ON_THE_WAY_MS, at_ms)

    def take(self, limit: int) -> list[Post]:
        """Return the oldest posts, at most *limit*, for storing."""
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._taken.extend(taken)
        return taken

    def settle(self, answers: Iterable[tuple[Post, int]]) -> None:
        """Answer all that was taken: what it says in *answers*, since it is stored."""
        for post, status in answers:
            post.settle(status)
        self._bytes -= sum(len(post.body) for post in self._taken)
        self._taken.clear()

    def close(self) -> None:
        """Take no more."""
        self._is_closed = True

    def abandon(self) -> None:
        """Tell all that wait to try again: nobody knows whether they are stored."""
        self.close()
        for post in (*self._taken, *self._queue):
            post.settle(BUSY)
        self._taken.clear()
        self._queue.clear()
        self._bytes = 0
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _note_refused(self, body: bytes, at_ms: int) -> None:
        """Note that an event is not stored, by when it was sent: RingCentral may not send it again."""
        sent_at_ms = min(self._sent_at_ms(body) or at_ms, at_ms)  # no gap reaches into the future
        self._note_missing(sent_at_ms, sent_at_ms)

    def _note_missing(self, since_ms: int, until_ms: int) -> None:
        known_since_ms, known_until_ms = self.refused or (since_ms, until_ms)
        self.refused = min(since_ms, known_since_ms), max(until_ms, known_until_ms)
        self._on_post()

    def _give_up(self) -> None:
        """Tell those that have waited for too long. One that is about to be stored may then come twice."""
        now = self._loop.time()
        for post in self._taken:
            if post.due_at <= now:
                post.settle(BUSY)
        while self._queue and self._queue[0].due_at <= now:
            post = self._queue.popleft()
            self._bytes -= len(post.body)
            post.settle(BUSY)
            self._note_refused(post.body, post.at_ms)
        waiting = [post.due_at for post in (*self._taken, *self._queue) if post.due_at > now]
        self._timer = self._loop.call_at(min(waiting), self._give_up) if waiting else None
