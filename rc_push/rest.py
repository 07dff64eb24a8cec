"""How do we call RingCentral's REST API? One account: its OAuth session, its limits, its calls.

Knows HTTP through RingCentral's own SDK, which blocks and so runs in worker threads; knows nothing of events.

Rules for editors:
* The SDK and `requests` are imported when an account opens: a command that needs none does not pay 100 ms for them.
* The event loop owns the OAuth session and the limiter; a worker gets what it needs, and gives an answer or an error.
* Exceptions of `requests` and of the SDK hold the request with its Authorization header. None of them leaves `Http`,
  not as a context either: ours are raised after the `except` block, and lose the worker's frames with their locals.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec
import structlog

from rc_push import __version__
from rc_push.config import AccountConfig, NetworkConfig, Secret
from rc_push.errors import (
    ConfigError,
    CredentialsRefused,
    JournalError,
    Problem,
    ProtocolError,
    RcPushError,
    UnreachableError,
)
from rc_push.http import Answer, Http
from rc_push.limiter import TICK_S, GroupStatistics, Limiter, LimitState, retry_after_s_from
from rc_push.protocol import subscription
from rc_push.protocol.refusals import error_from_response
from rc_push.threads import CallThreads
from rc_push.upgrade_gate import UpgradeGate

log = structlog.get_logger()

T = TypeVar("T")

TOKEN_PATH = "/restapi/oauth/token"  # noqa: S105 - a path
WSTOKEN_PATH = "/restapi/oauth/wstoken"
REVOKE_PATH = "/restapi/oauth/revoke"

# `uri` is not among the required fields of the answer. The host of early SDKs (protocol.md 1.1), for production only.
PRODUCTION = "https://platform.ringcentral.com"
PRODUCTION_GATEWAY = "wss://ws-api.ringcentral.com/ws"

# An access token is refreshed this long before it expires, or a third of its life where that is less.
LEEWAY_S = 120.0
LIFE_MAX_S = 366 * 86400.0
# Calls of one account at the same time; the rest queue. RingCentral's limits allow about one a second.
WORKERS = 4
# What a refresh in flight gets at the end. One that is cut is repeated at the next start with the old refresh token.
CLOSE_WITHIN_S = 3.0
# Requests of the Auth group that are left to connections: a token for each of two, or a login and a token.
RECONNECT_SPARE = 2
# Where an exchange has failed before RingCentral got anything of it.
NOT_SENT = frozenset({"dns", "connect", "proxy", "tls"})
# Shorter ones cannot be told from ordinary words.
SECRET_MIN_CHARS = 8


class SessionStore(Protocol):
    """Where OAuth sessions outlive the process: the gateway recovers only within the same one."""

    async def load_session(self, account: str) -> bytes | None:
        """Return what was saved last for *account*, or None."""
        ...

    async def save_session(self, account: str, session: bytes) -> None:
        """Store *session* durably; b"" means that there is none any more."""
        ...


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


@dataclass(frozen=True, slots=True)
class WsToken:
    """What one connection to the gateway at *uri* needs. Good for a single use within *expires_in_s*.

    *replace_within* is the span, in epoch seconds, in which its OAuth session gives way to another, so that the
    connection should, too: the gateway recovers within one session only. None = the session is refreshed instead.
    """

    uri: str
    token: str = field(repr=False)
    expires_in_s: float
    replace_within: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class AccountStatistics:
    """What an account has done since it opened. *expires_at* is the access token's end, where it is known.

    *budget*: what RingCentral's limits leave, by their group.
    *scope* names the permissions that came with the token, as RingCentral writes them; empty where it did not say.
    """

    calls: int = 0
    logins: int = 0
    refreshes: int = 0
    rate_limited: int = 0
    unreachable: int = 0
    expires_at: datetime | None = None
    owner_id: str = ""
    budget: Mapping[str, GroupStatistics] = field(default_factory=dict)
    scope: str = ""


class OAuthSession(msgspec.Struct, frozen=True):
    """One OAuth session, as it is saved. *fingerprint* says which configuration it belongs to."""

    access_token: str
    issued_at: datetime
    expires_at: datetime
    refresh_token: str = ""
    refresh_expires_at: datetime | None = None
    session_id: str = ""
    owner_id: str = ""
    fingerprint: str = ""
    scope: str = ""

    def __repr__(self) -> str:
        """Hide the tokens."""
        return f"OAuthSession(session_id={self.session_id!r}, expires_at={self.expires_at:%Y-%m-%dT%H:%M:%SZ})"

    @property
    def due_at(self) -> datetime:
        """When it is time for another access token."""
        life = self.expires_at - self.issued_at
        return self.expires_at - min(timedelta(seconds=LEEWAY_S), life / 3)

    def is_due(self, at: datetime) -> bool:
        """Say whether it is time for another access token."""
        return at >= self.due_at

    def can_refresh(self, at: datetime) -> bool:
        """Say whether there is a refresh token that may be alive. An app may have none: they are off by default."""
        return bool(self.refresh_token) and (self.refresh_expires_at is None or at < self.refresh_expires_at)


class _TokenInfo(msgspec.Struct):
    """RingCentral's answer to a login or a refresh.

    {"access_token":"…","token_type":"bearer","expires_in":3600,"refresh_token":"…","refresh_token_expires_in":604800,
     "scope":"…","owner_id":"…","session_id":"…"}
    """

    access_token: str
    expires_in: float
    refresh_token: str | None = None
    refresh_token_expires_in: float | None = None
    session_id: str | int | None = None
    owner_id: str | int | None = None
    scope: str | None = None


class _WsTokenInfo(msgspec.Struct):
    """RingCentral's answer: {"ws_access_token":"…","uri":"wss://…/ws","expires_in":30}."""

    ws_access_token: str
    uri: str | None = None
    expires_in: float = 30.0


@dataclass(frozen=True, slots=True)
class _Request:
    """One REST request. *name* is what people see: a query may hold numbers and names of others."""

    method: str
    path: str
    query: Mapping[str, str | int] | None = None
    body: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"

    @property
    def is_scarce(self) -> bool:
        """Say whether it counts for the Auth group, of which five a minute are allowed."""
        return self.path in (TOKEN_PATH, WSTOKEN_PATH, REVOKE_PATH)


_TOKEN = _Request("POST", TOKEN_PATH)
_WSTOKEN = _Request("POST", WSTOKEN_PATH)
_REVOKE = _Request("POST", REVOKE_PATH)


class Account:
    """One RingCentral user and app. `async with` opens it; all calls are safe to cancel and to make at the same time.

    Of the Auth group's requests, which logins, refreshes and the gateway's tokens share, some are left to whoever has
    to connect: all but `wstoken` and what it needs leave `RECONNECT_SPARE`. With *spare*, everything leaves so many
    more: to a daemon beside us.

    *wall* gives epoch seconds (tokens and *records* outlive the process), *now* monotonic seconds.
    """

    def __init__(
        self,
        config: AccountConfig,
        network: NetworkConfig,
        sessions: SessionStore,
        *,
        records: Records | None = None,
        spare: int = 0,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.config = config
        self._network = network
        self._sessions = sessions
        self._records = records
        self._spare = spare
        self._wall = wall
        self._now = now
        self._sleep = sleep
        self._limiter = Limiter()
        self._gate = UpgradeGate()
        self._one_by_one = asyncio.Lock()
        self._connecting = 0
        self._is_needed = asyncio.Event()
        self._workers = CallThreads(f"rest-{config.name}", WORKERS)
        self._session: OAuthSession | None = None
        self._is_saved = True
        self._renewal: asyncio.Task[OAuthSession] | None = None
        self._statistics = AccountStatistics()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._session = self._static_session() or await self._stored_session()
        await self._load_limits()
        self._http = await self._workers.run(Http, self._network)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. Waits CLOSE_WITHIN_S for a refresh at the most, and for no answer: these end by their timeouts."""
        try:
            if self._renewal:
                _, pending = await asyncio.wait({self._renewal}, timeout=CLOSE_WITHIN_S)
                for task in pending:
                    task.cancel()
        finally:
            self._workers.stop()
            self._http.close()

    async def access_token(self) -> str:
        """Return an access token that is not about to expire; log in or refresh where needed."""
        return (await self._live_session()).access_token

    async def wstoken(self) -> WsToken:
        """Return a fresh token for one connection to the gateway; `upgrade_worked` or `upgrade_failed` has to follow.

        Raises UpgradeBlocked, and asks nobody, while the upgrade is known not to get through.
        """
        self._gate.enter(self._now())
        with self._urgently():
            info = self._decoded(_WSTOKEN, await self._call(_WSTOKEN), _WsTokenInfo)
        uri = info.uri or (PRODUCTION_GATEWAY if self._server == PRODUCTION else "")
        if not uri:
            raise ProtocolError(f"{self._where(_WSTOKEN)}: the answer has no uri")
        if not uri.startswith(("wss://", "ws://") if self._server.startswith("http://") else "wss://"):
            raise ProtocolError(f"{self._where(_WSTOKEN)}: the uri is no wss:// address")
        return WsToken(uri, info.ws_access_token, info.expires_in, self._session_end())

    def upgrade_worked(self) -> None:
        """Take note that a connection to the gateway was opened."""
        self._gate.worked()

    def upgrade_failed(self, exc: UnreachableError) -> UnreachableError:
        """Take note that none was; return what that means, UpgradeBlocked where trying soon cannot help."""
        return self._gate.failed(exc, self._now())

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, body: Any = None
    ) -> Any:
        """Call *path* (from ``/`` on) and return the parsed JSON of the answer, or None where it is empty.

        Waits while the limits forbid it. Raises RateLimited, ServerError, RefusedError, RestError, UnreachableError.
        """
        if not path.startswith("/"):
            raise ValueError("a path begins with /")  # else the token could go to another host
        request = _Request(method, path, query, body)
        answer = await self._call(request)
        decoded = self._decoded(request, answer, Any) if answer.body else None
        if (method, path) == ("POST", subscription.PATH) and isinstance(decoded, dict):
            await self._note_created(decoded.get("id"))
        return decoded

    async def revoke(self) -> None:
        """End the OAuth session at RingCentral, with its tokens and connections. A bot's token is left alone."""
        session = self._session
        if session is None or self.config.access_token:
            return
        self._session = None
        try:
            await self._exchange(_REVOKE, lambda platform, _: _revoke(platform, session), session)
        except RcPushError as exc:  # RingCentral asks not to repeat it; the session ends by itself
            log.warning("oauth_revoke_failed", account=self.config.name, error=str(exc))
        await self._sessions.save_session(self.config.name, b"")

    def statistics(self) -> AccountStatistics:
        """Return what has been done so far."""
        session = self._session
        known = replace(self._statistics, budget=self._limiter.statistics(now=self._now()))
        if session is None or self.config.access_token:
            return known
        return replace(known, expires_at=session.expires_at, owner_id=session.owner_id, scope=session.scope)

    # ---------------------------------------------------------------------------------------------------------- calls

    async def _call(self, request: _Request) -> Answer:
        """Call with a live token; once more where RingCentral has ended it early (revoked, or superseded)."""
        used: list[OAuthSession] = []

        def send(platform: Any, session: OAuthSession) -> Answer:
            used.append(session)
            return _call(platform, session, request)

        session = await self._live_session()
        try:
            return await self._exchange(request, send, session)
        except CredentialsRefused as exc:
            if exc.status != 401 or self.config.access_token:  # noqa: PLR2004 - an HTTP status says it best
                raise
            log.warning("access_token_refused", account=self.config.name, error_code=exc.error_code)
        self._expire(used[-1])
        return await self._exchange(request, send, await self._live_session())

    async def _exchange(
        self, request: _Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None = None
    ) -> Answer:
        """Do one exchange within the limits; raise what a refused one means.

        *send* gets the session of that moment, which may have taken the place of *session* while the limits forbade it.
        """
        answer = await self._sent(request, send, session)
        if answer.is_ok:
            return answer
        retry_after_s = retry_after_s_from(answer.headers)
        if answer.status == 429:  # noqa: PLR2004
            self._count(rate_limited=1)
            retry_after_s = self._limiter.silence_s(request.method, request.path, now=self._now())
            log.warning("rate_limited", account=self.config.name, call=request.name, silence_s=round(retry_after_s, 1))
            await self._save_limits()
        body = _without(self._secrets(session, self._session), answer.body)
        raise error_from_response(answer.status, body, where=self._where(request), retry_after_s=retry_after_s)

    async def _sent(
        self, request: _Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None
    ) -> Answer:
        """Return the answer to *request*, sent as soon as the limits allow it.

        Those of the Auth group go one by one: what is on its way when a 429 comes would start the penalty anew.
        """
        while True:
            await self._wait_allowed(request)
            if not request.is_scarce:
                return await self._in_worker(self._send, request, send, self._session or session)
            is_sent = False
            try:
                async with self._one_by_one:
                    if self._limiter.silence_s(request.method, request.path, now=self._now()) <= TICK_S:
                        is_sent = True
                        return await self._in_worker(self._send, request, send, self._session or session)
            finally:
                if not is_sent:
                    self._limiter.give_back(request.method, request.path)

    async def _wait_allowed(self, request: _Request) -> None:
        """Wait while the limits forbid this request, however long: it would only start the penalty anew."""
        while wait_s := self._limiter.reserve(
            request.method, request.path, now=self._now(), spare=self._spare_for(request)
        ):
            log.info("rate_limit_wait", account=self.config.name, call=request.name, wait_s=round(wait_s, 1))
            await self._pause(wait_s, request)
        if request.is_scarce:
            await self._save_limits()  # before it is sent: whoever comes after a crash has to know of it

    def _spare_for(self, request: _Request) -> int:
        """Return how many requests of its group this one has to leave to others."""
        if not request.is_scarce:
            return 0
        return self._spare + (0 if self._connecting else RECONNECT_SPARE)

    async def _pause(self, wait_s: float, request: _Request) -> None:
        """Wait; no longer than until somebody has to connect, where that lets this request pass sooner."""
        if not request.is_scarce or self._connecting:
            await self._sleep(wait_s)
            return
        waits = [asyncio.ensure_future(self._sleep(wait_s)), asyncio.ensure_future(self._is_needed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @contextlib.contextmanager
    def _urgently(self) -> Iterator[None]:
        """Let what is done inside, and a login that it has to wait for, have all of the Auth group's requests."""
        self._connecting += 1
        self._is_needed.set()
        try:
            yield
        finally:
            self._connecting -= 1
            if not self._connecting:
                self._is_needed.clear()

    def _send(self, request: _Request, send: Callable[[Any, Any], Answer], session: OAuthSession | None) -> Answer:
        """Do one exchange; runs in a worker. The limiter learns of the answer even if the caller has gone."""
        try:
            answer = send(_platform_from(self.config, self._http), session)
        except UnreachableError as exc:
            if exc.phase in NOT_SENT:
                self._loop.call_soon_threadsafe(self._limiter.give_back, request.method, request.path)
            raise
        self._loop.call_soon_threadsafe(self._learn, request, answer)
        return answer

    def _learn(self, request: _Request, answer: Answer) -> None:
        self._limiter.learn(request.method, request.path, answer.status, answer.headers, now=self._now())

    async def _in_worker(self, function: Callable[..., T], *args: Any) -> T:
        self._count(calls=1)
        try:
            answer: T = await self._workers.run(function, *args)
        except RcPushError as exc:
            self._count(unreachable=isinstance(exc, UnreachableError))
            raise exc.with_traceback(None) from None  # the worker's frames have secrets in their locals
        return answer

    # -------------------------------------------------------------------------------------------------------- records

    async def _load_limits(self) -> None:
        """Go on with the limits as the last process has left them: RingCentral goes on counting, too."""
        stored = await self._records.load_limits(self.config.name) if self._records else None
        if not stored:
            return
        try:
            state = msgspec.json.decode(stored, type=LimitState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("rest_limits_discarded", account=self.config.name)
            return
        self._limiter.restore(state, now=self._now(), wall=self._wall())

    async def _save_limits(self) -> None:
        """Save what is used up. A journal that cannot is no reason not to connect: then it matters most."""
        if self._records is None:
            return
        state = msgspec.json.encode(self._limiter.state(now=self._now(), wall=self._wall()))
        try:
            await self._records.save_limits(self.config.name, state)
        except JournalError as exc:
            log.warning("rest_limits_not_saved", account=self.config.name, error=str(exc))

    async def _note_created(self, subscription_id: Any) -> None:
        if self._records is None or not isinstance(subscription_id, str):
            return
        try:
            await self._records.note_created(self.config.name, subscription_id)
        except JournalError as exc:  # it works without; it only cannot be told from others' later
            log.warning("subscription_not_noted", account=self.config.name, id=subscription_id, error=str(exc))

    # ---------------------------------------------------------------------------------------------------- the session

    async def _live_session(self) -> OAuthSession:
        """Return the session with a live token. One renewal is in flight however many callers; it outlives them."""
        session = self._session
        if session and self._is_saved and not session.is_due(self._at()):
            return session
        if self._renewal is None:
            self._renewal = self._loop.create_task(self._renew())
            self._renewal.add_done_callback(self._forget_renewal)
        return await asyncio.shield(self._renewal)

    def _forget_renewal(self, renewal: asyncio.Task[OAuthSession]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # asked for, since all callers may have gone

    async def _renew(self) -> OAuthSession:
        """Get another access token and save it; it is used only then, so that a crash leaves the old one good."""
        session = self._session
        if session is None or session.is_due(self._at()):
            session = await self._granted(session)
            self._session, self._is_saved = session, False
        if not self._is_saved:  # also where saving failed last time: another login would be another session
            await self._sessions.save_session(self.config.name, msgspec.json.encode(session))
            self._is_saved = True
        return session

    async def _granted(self, old: OAuthSession | None) -> OAuthSession:
        """Refresh, which keeps the OAuth session (and so the gateway's recovery); log in where that is impossible."""
        if old and old.can_refresh(self._at()):
            try:
                return await self._refresh(old)
            except CredentialsRefused as exc:
                log.warning("oauth_refresh_refused", account=self.config.name, error_code=exc.error_code)
        return await self._login()

    async def _login(self) -> OAuthSession:
        jwt = self.config.jwt
        if jwt is None:
            key = f"accounts.{self.config.name}.jwt"
            raise ConfigError([Problem(key, "missing", "set jwt, or access_token for a bot")])
        started_at = self._now()
        answer = await self._exchange(_TOKEN, lambda platform, _: platform.login(jwt=jwt.reveal()))
        session = self._session_from(answer)
        self._count(logins=1)
        log.info("oauth_login", account=self.config.name, took_s=round(self._now() - started_at, 3))
        return session

    async def _refresh(self, old: OAuthSession) -> OAuthSession:
        """Refresh. A lost answer is asked for again at once: for a while the old refresh token gives the same one."""

        async def attempt() -> Answer:
            return await self._exchange(_TOKEN, lambda platform, _: _refresh(platform, old), old)

        started_at = self._now()
        try:
            answer = await attempt()
        except UnreachableError as exc:
            if exc.phase not in ("timeout", "read"):
                raise
            log.warning("oauth_refresh_lost", account=self.config.name, phase=exc.phase)
            answer = await attempt()
        session = self._session_from(answer, old)
        self._count(refreshes=1)
        log.info("oauth_refresh", account=self.config.name, took_s=round(self._now() - started_at, 3))
        return session

    def _session_from(self, answer: Answer, old: OAuthSession | None = None) -> OAuthSession:
        """Return the session that *answer* grants; a refresh may leave out what does not change."""
        info = self._decoded(_TOKEN, answer, _TokenInfo)
        at = self._at()
        refresh_life_s = info.refresh_token_expires_in
        return OAuthSession(
            access_token=info.access_token,
            issued_at=at,
            expires_at=at + _life(info.expires_in),
            refresh_token=info.refresh_token or "",
            refresh_expires_at=None if refresh_life_s is None else at + _life(refresh_life_s),
            session_id=str(info.session_id or (old.session_id if old else "")),
            owner_id=str(info.owner_id or (old.owner_id if old else "")),
            fingerprint=self._fingerprint(),
            scope=info.scope or (old.scope if old else ""),
        )

    def _expire(self, session: OAuthSession) -> None:
        """Use the access token of *session* no more. Does nothing where another is there already."""
        if self._session is session:
            self._session = msgspec.structs.replace(session, expires_at=session.issued_at)

    def _static_session(self) -> OAuthSession | None:
        """Return a session for a bot's token: it has no end that we know of."""
        token = self.config.access_token
        if token is None:
            return None
        at = self._at()
        return OAuthSession(token.reveal(), issued_at=at, expires_at=datetime.max.replace(tzinfo=UTC))

    async def _stored_session(self) -> OAuthSession | None:
        stored = await self._sessions.load_session(self.config.name)
        if not stored:
            return None
        try:
            session = msgspec.json.decode(stored, type=OAuthSession)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("oauth_session_discarded", account=self.config.name, reason="unreadable")
            return None
        if session.fingerprint != self._fingerprint():
            log.warning("oauth_session_discarded", account=self.config.name, reason="other credentials or server")
            return None
        return session

    def _session_end(self) -> tuple[float, float] | None:
        """Return from when on calls belong to another OAuth session, and when this one ends; None = that is not due."""
        session = self._session
        if session is None or self.config.access_token or session.can_refresh(self._at()):
            return None
        due_at, end_at = session.due_at.timestamp(), session.expires_at.timestamp()
        return due_at, due_at + (end_at - due_at) * 3 / 4  # taking over needs time, too

    # --------------------------------------------------------------------------------------------------------- details

    @property
    def _server(self) -> str:
        return self.config.server.rstrip("/")

    def _at(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _where(self, request: _Request) -> str:
        return f"account {self.config.name}: {request.name}"

    def _decoded(self, request: _Request, answer: Answer, type_: Any) -> Any:
        """Return the JSON of *answer* as *type_*. Raises ProtocolError, which names the field and never its value."""
        try:
            return msgspec.json.decode(answer.body, type=type_, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            reason = str(exc)[:100]
        raise ProtocolError(f"{self._where(request)}: {reason}")

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._statistics, name) + number for name, number in more.items()}
        self._statistics = replace(self._statistics, **counts)

    def _fingerprint(self) -> str:
        parts = (self._server, self.config.client_id, _revealed(self.config.jwt))
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _secrets(self, *sessions: OAuthSession | None) -> Iterator[str]:
        secret = _revealed(self.config.client_secret)
        yield base64.b64encode(f"{self.config.client_id}:{secret}".encode()).decode()  # as Basic authorization has it
        yield from (secret, _revealed(self.config.jwt), _revealed(self.config.access_token))
        for session in filter(None, sessions):
            yield from (session.access_token, session.refresh_token)


# ---------------------------------------------------------------------------------------------- what runs in a worker


def _platform_from(config: AccountConfig, http: Http) -> Any:
    """Return the SDK's Platform. Each call has its own: it holds tokens, and does not lock them."""
    from ringcentral.http import Client  # noqa: PLC0415 - see the top
    from ringcentral.platform import Platform  # noqa: PLC0415

    class PooledClient(Client):  # type: ignore[misc] # the SDK is untyped
        def send(self, request: Any) -> Answer:
            return http.send(request)

    server, secret = config.server.rstrip("/"), _revealed(config.client_secret)
    return Platform(PooledClient(), config.client_id or "", secret, server, "rc-push", __version__)


def _refresh(platform: Any, session: OAuthSession) -> Answer:
    platform.auth().set_data({"refresh_token": session.refresh_token, "refresh_token_expire_time": math.inf})
    answer: Answer = platform.refresh()
    return answer


def _revoke(platform: Any, session: OAuthSession) -> Answer:
    platform.auth().set_data({"access_token": session.access_token})
    answer: Answer = platform.logout()
    return answer


def _call(platform: Any, session: OAuthSession, request: _Request) -> Answer:
    # For the SDK the token never expires: it would refresh in here, once per thread.
    platform.auth().set_data({"token_type": "Bearer", "access_token": session.access_token, "expire_time": math.inf})
    pairs = list(request.query.items()) if request.query else None  # the SDK does not quote what is in a dict
    create = platform._client.create_request  # noqa: SLF001 - the same as its get, post …, for any method
    answer: Answer = platform.send_request(create(request.method, request.path, query_params=pairs, body=request.body))
    return answer


def _life(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(0.0, seconds), LIFE_MAX_S))


def _revealed(secret: Secret | None) -> str:
    return secret.reveal() if secret else ""


def _without(secrets: Iterator[str], body: bytes) -> bytes:
    """Return *body* without our secrets: a server may quote what it refuses."""
    for secret in secrets:
        if len(secret) >= SECRET_MIN_CHARS:
            body = body.replace(secret.encode(), b"***")
    return body
