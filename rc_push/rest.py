"""How do we call RingCentral's REST API? One account: its OAuth session, and the calls that it makes with it.

Knows how a session begins, is renewed and ends; the limits and the threads are `exchanges`', the requests `sdk`'s.
Knows nothing of events. The event loop owns the session.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import structlog

from rc_push import sdk
from rc_push.config import AccountConfig, NetworkConfig
from rc_push.errors import (
    ConfigError,
    CredentialsRefused,
    JournalError,
    Problem,
    ProtocolError,
    RcPushError,
    UnreachableError,
)
from rc_push.exchanges import Exchanges, Records, revealed
from rc_push.http import Answer
from rc_push.limiter import GroupStatistics
from rc_push.oauth import OAuthSession, TokenInfo, endless, granted, session_from
from rc_push.protocol import subscription
from rc_push.sdk import Request
from rc_push.upgrade_gate import UpgradeGate

log = structlog.get_logger()

# `uri` is not among the required fields of the answer. The host of early SDKs (protocol.md 1.1), for production only.
PRODUCTION = "https://platform.ringcentral.com"
PRODUCTION_GATEWAY = "wss://ws-api.ringcentral.com/ws"

# What a refresh in flight gets at the end. One that is cut is repeated at the next start with the old refresh token.
CLOSE_WITHIN_S = 3.0
# When so many access tokens are refused, each so soon after it was there, another one would be refused, too.
NEW_REFUSED_MAX, TOKEN_FRESH_S = 2, 5.0


class SessionStore(Protocol):
    """Where OAuth sessions outlive the process: the gateway recovers only within the same one."""

    async def load_session(self, account: str) -> bytes | None:
        """Return what was saved last for *account*, or None."""
        ...

    async def save_session(self, account: str, session: bytes) -> None:
        """Store *session* durably; b"" means that there is none any more."""
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


class _WsTokenInfo(msgspec.Struct):
    """RingCentral's answer: {"ws_access_token":"…","uri":"wss://…/ws","expires_in":30}."""

    ws_access_token: str
    uri: str | None = None
    expires_in: float = 30.0


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
        self._sessions = sessions
        self._records = records
        self._wall = wall
        self._now = now
        self._exchanges = Exchanges(
            config, network, records, lambda: self._session, spare=spare, wall=wall, now=now, sleep=sleep
        )
        self._gate = UpgradeGate()
        self._session: OAuthSession | None = None
        self._is_saved = True
        self._renewal: asyncio.Task[OAuthSession] | None = None
        self._logins = self._refreshes = 0

    async def __aenter__(self) -> Self:
        self._session = await self._first_session()
        await self._exchanges.open()
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
            self._exchanges.close()

    async def take_over(self) -> None:
        """Go on with session and limits as the account before has left them, which was open beside us and has closed.

        To be called before any call is made. Raises JournalError.
        """
        self._session = await self._first_session()
        await self._exchanges.take_over()

    async def access_token(self) -> str:
        """Return an access token that is not about to expire; log in or refresh where needed."""
        return (await self._live_session()).access_token

    async def wstoken(self) -> WsToken:
        """Return a fresh token for one connection to the gateway; `upgrade_worked` or `upgrade_failed` has to follow.

        Raises UpgradeBlocked, and asks nobody, while the upgrade is known not to get through.
        """
        self._gate.enter(self._now())
        with self._exchanges.urgently():
            info = self._decoded(sdk.WSTOKEN, await self._call(sdk.WSTOKEN), _WsTokenInfo)
        uri = info.uri or (PRODUCTION_GATEWAY if self._server == PRODUCTION else "")
        if not uri:
            raise ProtocolError(f"{self._exchanges.where(sdk.WSTOKEN)}: the answer has no uri")
        if not uri.startswith(("wss://", "ws://") if self._server.startswith("http://") else "wss://"):
            raise ProtocolError(f"{self._exchanges.where(sdk.WSTOKEN)}: the uri is no wss:// address")
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
        request = Request(method, path, query, body)
        answer = await self._call(request)
        decoded = self._decoded(request, answer, Any) if answer.body else None
        if (method, path) == ("POST", subscription.PATH) and isinstance(decoded, dict):
            await self._note_created(decoded.get("id"))
        return decoded

    async def revoke(self) -> bool:
        """End the OAuth session at RingCentral, with its tokens and connections; return whether that has ended one.

        A bot's token is left alone. Waits for as long as RingCentral's limits ask for.
        """
        session = self._session
        if session is None or self.config.access_token:
            return False
        self._session = None
        has_ended = True
        try:
            await self._exchanges.exchange(sdk.REVOKE, lambda platform, _: sdk.revoke(platform, session), session)
        except RcPushError as exc:  # RingCentral asks not to repeat it; the session ends by itself
            log.warning("oauth_revoke_failed", account=self.config.name, error=str(exc))
            has_ended = False
        await self._sessions.save_session(self.config.name, b"")
        return has_ended

    def statistics(self) -> AccountStatistics:
        """Return what has been done so far."""
        done, session = self._exchanges, self._session
        known = AccountStatistics(
            calls=done.calls,
            logins=self._logins,
            refreshes=self._refreshes,
            rate_limited=done.rate_limited,
            unreachable=done.unreachable,
            budget=done.budget(),
        )
        if session is None or self.config.access_token:
            return known
        return replace(known, expires_at=session.expires_at, owner_id=session.owner_id, scope=session.scope)

    # ---------------------------------------------------------------------------------------------------------- calls

    async def _call(self, request: Request) -> Answer:
        """Call with a live token; with another one where RingCentral has ended it early (revoked, or superseded).

        Where two new ones are refused, that is final. One may have been ended as well: it can be of the login that is
        over, and the limits can have let it wait.
        """
        used: list[tuple[OAuthSession, float]] = []
        new_refused = 0

        def send(platform: Any, session: OAuthSession) -> Answer:
            used.append((session, self._now()))
            return sdk.call(platform, session, request)

        while True:
            known, session = self._session, await self._live_session()
            fresh_until = self._now() + TOKEN_FRESH_S
            try:
                return await self._exchanges.exchange(request, send, session)
            except CredentialsRefused as exc:
                refused, used_at = used[-1]
                new_refused += session is not known and used_at <= fresh_until
                is_final = new_refused == NEW_REFUSED_MAX
                if exc.status != 401 or self.config.access_token or is_final:  # noqa: PLR2004 - an HTTP status says it best
                    raise
                log.warning("access_token_refused", account=self.config.name, error_code=exc.error_code)
            self._expire(refused)

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
            self._renewal = asyncio.create_task(self._renew())
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
        answer = await self._exchanges.exchange(sdk.TOKEN, lambda platform, _: platform.login(jwt=jwt.reveal()))
        session = self._session_from(answer)
        self._logins += 1
        log.info("oauth_login", account=self.config.name, took_s=round(self._now() - started_at, 3))
        return session

    async def _refresh(self, old: OAuthSession) -> OAuthSession:
        """Refresh. A lost answer is asked for again at once: for a while the old refresh token gives the same one."""

        async def attempt() -> Answer:
            return await self._exchanges.exchange(sdk.TOKEN, lambda platform, _: sdk.refresh(platform, old), old)

        started_at = self._now()
        try:
            answer = await attempt()
        except UnreachableError as exc:
            if exc.phase not in ("timeout", "read"):
                raise
            log.warning("oauth_refresh_lost", account=self.config.name, phase=exc.phase)
            answer = await attempt()
        session = self._session_from(answer, old)
        self._refreshes += 1
        log.info("oauth_refresh", account=self.config.name, took_s=round(self._now() - started_at, 3))
        return session

    def _session_from(self, answer: Answer, old: OAuthSession | None = None) -> OAuthSession:
        """Return the session that *answer* grants in place of *old*."""
        info = self._decoded(sdk.TOKEN, answer, TokenInfo)
        return granted(info, self._at(), self._fingerprint(), old)

    def _expire(self, session: OAuthSession) -> None:
        """Use the access token of *session* no more. Does nothing where another is there already."""
        if self._session is session:
            self._session = session.ended()

    async def _first_session(self) -> OAuthSession | None:
        token = self.config.access_token
        return endless(token.reveal(), self._at()) if token else await self._stored_session()

    async def _stored_session(self) -> OAuthSession | None:
        stored = await self._sessions.load_session(self.config.name)
        if not stored:
            return None
        try:
            return session_from(stored, self._fingerprint())
        except ValueError as exc:
            log.warning("oauth_session_discarded", account=self.config.name, reason=str(exc))
            return None

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

    def _decoded(self, request: Request, answer: Answer, type_: Any) -> Any:
        """Return the JSON of *answer* as *type_*. Raises ProtocolError, which names the field and never its value."""
        try:
            return msgspec.json.decode(answer.body, type=type_, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            reason = str(exc)[:100]
        raise ProtocolError(f"{self._exchanges.where(request)}: {reason}")

    def _fingerprint(self) -> str:
        parts = (self._server, self.config.client_id, revealed(self.config.jwt))
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
