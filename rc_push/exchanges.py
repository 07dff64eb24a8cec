"""When may an account ask RingCentral, and what does a refusal mean? One exchange after another within the limits.

Knows the limits, worker threads and RingCentral's refusals; knows nothing of how a session comes to be.

Rules for editors:
* The event loop owns the limiter; a worker gets what it needs, and gives an answer or an error.
* Exceptions of `requests` and of the SDK hold the request with its Authorization header. None of them leaves `Http`,
  not as a context either: ours are raised after the `except` block, and lose the worker's frames with their locals.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from rc_push.config import AccountConfig, NetworkConfig, Secret
from rc_push.errors import JournalError, RcPushError, UnreachableError
from rc_push.http import Answer, Http
from rc_push.limiter import TICK_S, GroupStatistics, Limiter, LimitState, retry_after_s_from
from rc_push.oauth import OAuthSession
from rc_push.protocol.refusals import error_from_response
from rc_push.sdk import Request, platform_from
from rc_push.threads import CallThreads

log = structlog.get_logger()

T = TypeVar("T")

# Calls of one account at the same time; the rest queue. RingCentral's limits allow about one a second.
WORKERS = 4
# Requests of the Auth group that are left to connections: a token for each of two, or a login and a token.
RECONNECT_SPARE = 2
# Where an exchange has failed before RingCentral got anything of it.
NOT_SENT = frozenset({"dns", "connect", "proxy", "tls"})


class Records(Protocol):
    """What else of an account outlives the process: how much of the limits is used up, and what we have created."""

    async def load_limits(self, account: str) -> bytes | None:
        """Return what was saved last for *account*, or None."""
        ...

    async def save_limits(self, account: str, limits: bytes) -> None:
        """Store *limits* durably."""
        ...

    async def note_created(self, account: str, subscription_id: str) -> None:
        """Keep the id of a subscription that we have created: only what is provably ours may be removed."""
        ...


class Exchanges:
    """The exchanges of one account with RingCentral. `async with` opens it.

    Of the Auth group's requests, which logins, refreshes and the gateway's tokens share, some are left to whoever has
    to connect: all that is not done `urgently` leaves `RECONNECT_SPARE`. With *spare*, everything leaves so many more.

    *current* returns the session that calls are made with at that moment. *calls*, *rate_limited* and *unreachable*
    count. *wall*, *now* and *sleep* as for `Account`.
    """

    def __init__(
        self,
        config: AccountConfig,
        network: NetworkConfig,
        records: Records | None,
        current: Callable[[], OAuthSession | None],
        *,
        spare: int,
        wall: Callable[[], float],
        now: Callable[[], float],
        sleep: Callable[[float], Any],
    ) -> None:
        self.calls = self.rate_limited = self.unreachable = 0
        self._config = config
        self._network = network
        self._records = records
        self._current = current
        self._spare = spare
        self._wall = wall
        self._now = now
        self._sleep = sleep
        self._limiter = Limiter()
        self._one_by_one = asyncio.Lock()
        self._connecting = 0
        self._is_needed = asyncio.Event()
        self._is_closed = asyncio.Event()
        self._workers = CallThreads(f"rest-{config.name}", WORKERS)

    async def open(self) -> None:
        """Take the limits up where the last process has left them, and make ready to call."""
        self._loop = asyncio.get_running_loop()
        await self.take_over()
        self._http = await self._workers.run(Http, self._network)

    async def take_over(self) -> None:
        """Take the limits up as whoever called before us has left them. Raises JournalError."""
        self._limiter = Limiter()
        await self._load_limits()

    def close(self) -> None:
        """Let go of all connections. Waits for no answer: calls that are under way end by their timeouts.

        Who comes later, or waits for the limits, gets UnreachableError.
        """
        self._is_closed.set()
        self._workers.stop()
        self._http.close()

    def budget(self) -> dict[str, GroupStatistics]:
        """Return what the limits leave, by their group."""
        return self._limiter.statistics(now=self._now())

    def where(self, request: Request) -> str:
        """Return what errors call *request*."""
        return f"account {self._config.name}: {request.name}"

    async def exchange(
        self, request: Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None = None
    ) -> Answer:
        """Do one exchange within the limits; raise what a refused one means, and UnreachableError after `close`.

        *send* gets the session of that moment, which may have taken the place of *session* while the limits forbade it.
        """
        answer = await self._sent(request, send, session)
        if answer.is_ok:
            return answer
        retry_after_s = retry_after_s_from(answer.headers)
        if answer.status == 429:  # noqa: PLR2004
            self.rate_limited += 1
            retry_after_s = self._limiter.silence_s(request.method, request.path, now=self._now())
            log.warning("rate_limited", account=self._config.name, call=request.name, silence_s=round(retry_after_s, 1))
            await self._save_limits()
        raise error_from_response(
            answer.status,
            answer.body,
            where=self.where(request),
            retry_after_s=retry_after_s,
            secrets=list(self._secrets(session, self._current())),
        )

    async def _sent(self, request: Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None) -> Answer:
        """Return the answer to *request*, sent as soon as the limits allow it.

        Those of the Auth group go one by one: what is on its way when a 429 comes would start the penalty anew.
        """
        while True:
            await self._wait_allowed(request)
            if not request.is_scarce:
                return await self._in_worker(self._send, request, send, self._current() or session)
            is_sent = False
            try:
                async with self._one_by_one:
                    if self._limiter.silence_s(request.method, request.path, now=self._now()) <= TICK_S:
                        is_sent = True
                        return await self._in_worker(self._send, request, send, self._current() or session)
            finally:
                if not is_sent:
                    self._limiter.give_back(request.method, request.path)

    async def _wait_allowed(self, request: Request) -> None:
        """Wait while the limits forbid this request, however long: it would only start the penalty anew."""
        while wait_s := self._limiter.reserve(
            request.method, request.path, now=self._now(), spare=self._spare_for(request)
        ):
            log.info("rate_limit_wait", account=self._config.name, call=request.name, wait_s=round(wait_s, 1))
            await self._pause(wait_s, request)
            if self._is_closed.is_set():
                raise UnreachableError(f"account {self._config.name}: closed", phase="closed")
        if request.is_scarce:
            await self._save_limits()  # before it is sent: whoever comes after a crash has to know of it

    def _spare_for(self, request: Request) -> int:
        """Return how many requests of its group this one has to leave to others."""
        if not request.is_scarce:
            return 0
        return self._spare + (0 if self._connecting else RECONNECT_SPARE)

    async def _pause(self, wait_s: float, request: Request) -> None:
        """Wait; no longer than until it closes, or somebody has to connect and this request then passes sooner."""
        events = [self._is_closed]
        if request.is_scarce and not self._connecting:
            events.append(self._is_needed)
        waits = [asyncio.ensure_future(wait) for wait in (self._sleep(wait_s), *(event.wait() for event in events))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @contextlib.contextmanager
    def urgently(self) -> Iterator[None]:
        """Let what is done inside, and a login that it has to wait for, have all of the Auth group's requests."""
        self._connecting += 1
        self._is_needed.set()
        try:
            yield
        finally:
            self._connecting -= 1
            if not self._connecting:
                self._is_needed.clear()

    def _send(self, request: Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None) -> Answer:
        """Do one exchange; runs in a worker. The limiter learns of the answer even if the caller has gone."""
        try:
            answer = send(platform_from(self._config, self._http), session)
        except UnreachableError as exc:
            if exc.phase in NOT_SENT:
                self._loop.call_soon_threadsafe(self._limiter.give_back, request.method, request.path)
            raise
        self._loop.call_soon_threadsafe(self._learn, request, answer)
        return answer

    def _learn(self, request: Request, answer: Answer) -> None:
        self._limiter.learn(request.method, request.path, answer.status, answer.headers, now=self._now())

    async def _in_worker(self, function: Callable[..., T], *args: Any) -> T:
        self.calls += 1
        try:
            answer: T = await self._workers.run(function, *args)
        except RcPushError as exc:
            self.unreachable += isinstance(exc, UnreachableError)
            raise exc.with_traceback(None) from None  # the worker's frames have secrets in their locals
        return answer

    # --------------------------------------------------------------------------------------------------------- limits

    async def _load_limits(self) -> None:
        """Go on with the limits as the last process has left them: RingCentral goes on counting, too."""
        stored = await self._records.load_limits(self._config.name) if self._records else None
        if not stored:
            return
        try:
            state = msgspec.json.decode(stored, type=LimitState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("rest_limits_discarded", account=self._config.name)
            return
        self._limiter.restore(state, now=self._now(), wall=self._wall())

    async def _save_limits(self) -> None:
        """Save what is used up. A journal that cannot is no reason not to connect: then it matters most."""
        if self._records is None:
            return
        state = msgspec.json.encode(self._limiter.state(now=self._now(), wall=self._wall()))
        try:
            await self._records.save_limits(self._config.name, state)
        except JournalError as exc:
            log.warning("rest_limits_not_saved", account=self._config.name, error=str(exc))

    def _secrets(self, *sessions: OAuthSession | None) -> Iterator[str]:
        secret = revealed(self._config.client_secret)
        yield base64.b64encode(f"{self._config.client_id}:{secret}".encode()).decode()  # as Basic authorization has it
        yield from (secret, revealed(self._config.jwt), revealed(self._config.access_token))
        for session in filter(None, sessions):
            yield from (session.access_token, session.refresh_token)


def revealed(secret: Secret | None) -> str:
    """Return what *secret* is; empty where there is none."""
    return secret.reveal() if secret else ""
