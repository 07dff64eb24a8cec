"""Who may call? OAuth sessions and their tokens, with RingCentral's rules (protocol.md 2.3, 2.4, 4.1).

Knows the rules; knows nothing of requests and answers but how to refuse.
"""

from __future__ import annotations

import math
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from rc_push.simulator.answers import Refused, oauth_error, rest_error
from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.limits import too_many
from rc_push.simulator.people import User

# A spent refresh token goes on answering with the same grant: this long while the new access token is unused …
REPEAT_UNUSED_S = 3600.0
# … and this long after its first use.
REPEAT_USED_S = 10.0


@dataclass(slots=True, eq=False)
class OAuthSession:
    """One login. All its tokens die with it."""

    user: User
    endpoint_id: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    access: AccessToken | None = None
    refresh: RefreshToken | None = None
    is_over: bool = False
    is_bot: bool = False


@dataclass(slots=True, eq=False)
class AccessToken:
    """A bearer token. *used_at* is its first use."""

    session: OAuthSession
    expires_at: float
    lifetime_s: int
    value: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    used_at: float | None = None


@dataclass(slots=True, eq=False)
class RefreshToken:
    """A single-use token, and what it was spent for."""

    session: OAuthSession
    expires_at: float
    lifetime_s: int
    value: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    spent_at: float = 0.0
    spent_for: Grant | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login or a refresh gives."""

    access: AccessToken
    refresh: RefreshToken | None


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """What the client asked for, in RingCentral's seconds, up to the knobs'; None = as long as these say."""

    access_s: float | None = None
    refresh_s: float | None = None


DEFAULT = Lifetimes()


class Tokens:
    """All sessions and tokens. *on_end* is called with every session that ends before its time."""

    def __init__(self, clock: Clock, knobs: Knobs, on_end: Callable[[OAuthSession], None]) -> None:
        self.sessions: list[OAuthSession] = []
        self._clock = clock
        self._knobs = knobs
        self._on_end = on_end
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._ws: dict[str, tuple[OAuthSession, float]] = {}

    def login(self, user: User, endpoint_id: str, lifetimes: Lifetimes = DEFAULT) -> Grant:
        """Open a session. One too many revokes the oldest. Raises Refused where it is this one that has to stay out."""
        alive = [session for session in self.sessions if session.user == user and self._is_alive(session)]
        if len(alive) >= self._knobs.sessions_per_user:
            if self._knobs.sixth_session == "refuse":
                raise too_many(self._clock.whole_s(60) if self._knobs.retry_after else None)
            self.end(alive[0])
        session = OAuthSession(user, endpoint_id or secrets.token_urlsafe(16))
        self.sessions.append(session)
        return self._grant(session, lifetimes)

    def refresh(self, value: str, lifetimes: Lifetimes = DEFAULT) -> Grant:
        """Spend a refresh token; a spent one gives the same grant again for a while. Raises Refused."""
        token, now = self._refresh.get(value), self._clock.now()
        if token is None or token.session.is_over or now >= token.expires_at:
            raise _expired()
        if token.spent_for is None:
            token.spent_for, token.spent_at = self._grant(token.session, lifetimes), now
        elif token.spent_for.access is not token.session.access or now >= self._repeatable_until(token):
            raise _expired()
        return token.spent_for

    def authorize(self, header: str) -> OAuthSession:
        """Return whose `Authorization` *header* it is. Raises Refused (401)."""
        if not header:
            raise rest_error(401, "AGW-401", "Authorization header is not specified")
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "bearer" or not value.strip():
            raise rest_error(401, "OAU-123", "Invalid Authorization header value")
        token, now = self._access.get(value.strip()), self._clock.now()
        if token is None:
            raise rest_error(401, "OAU-149", "Unparsable access token")
        if token.session.is_over or token.session.access is not token:
            raise rest_error(401, "OAU-213", "Token not found")
        if now >= token.expires_at:
            raise rest_error(401, "OAU-128", "Access token expired")
        token.used_at = now if token.used_at is None else token.used_at
        return token.session

    def user_of(self, value: str) -> User | None:
        """Return whose access or refresh token *value* is, or was."""
        token = self._access.get(value) or self._refresh.get(value)
        return token.session.user if token else None

    def revoke(self, value: str) -> None:
        """End the session of the access or refresh token *value*; an unknown one is nobody's concern (RFC 7009)."""
        token = self._access.get(value) or self._refresh.get(value)
        if token:
            self.end(token.session)

    def end(self, session: OAuthSession) -> None:
        """End *session* before its time."""
        if not session.is_over:
            session.is_over = True
            self._on_end(session)

    def end_all(self) -> int:
        """End every session; return how many there were."""
        alive = [session for session in self.sessions if self._is_alive(session)]
        for session in alive:
            self.end(session)
        return len(alive)

    def expire_all(self) -> int:
        """Let every access token expire now; return how many there were."""
        alive = [session.access for session in self.sessions if session.access and self._is_alive(session)]
        for token in alive:
            token.expires_at = self._clock.now()
        return len(alive)

    def bot_token(self, user: User) -> str:
        """Return an access token as a bot has it: it never expires and belongs to no login."""
        session = OAuthSession(user, endpoint_id="", is_bot=True)
        self.sessions.append(session)
        session.access = AccessToken(session, math.inf, lifetime_s=0)
        self._access[session.access.value] = session.access
        return session.access.value

    def ws_token(self, session: OAuthSession) -> tuple[str, int]:
        """Return a token for one connection to the gateway, with its lifetime in seconds."""
        lifetime_s = self._clock.whole_s(self._knobs.ws_token_s)
        value = secrets.token_urlsafe(32)
        self._ws[value] = (session, self._clock.now() + lifetime_s)
        return value, lifetime_s

    def redeem_ws_token(self, value: str) -> OAuthSession | None:
        """Return whose ws token *value* is; None where it is unknown, used, too old or its session over."""
        session, expires_at = self._ws.get(value, (None, 0.0))
        if self._knobs.used_ws_token == "refuse":  # noqa: S105 - no password
            self._ws.pop(value, None)
        return session if session and not session.is_over and self._clock.now() < expires_at else None

    def clear(self) -> None:
        """Forget everybody, in silence."""
        for held in (self.sessions, self._access, self._refresh, self._ws):
            held.clear()

    def _grant(self, session: OAuthSession, lifetimes: Lifetimes) -> Grant:
        now = self._clock.now()
        access_s = self._clock.whole_s(_bounded(lifetimes.access_s, self._knobs.access_token_s))
        session.access = AccessToken(session, now + access_s, access_s)
        self._access[session.access.value] = session.access
        if self._knobs.refresh_tokens:
            refresh_s = self._clock.whole_s(_bounded(lifetimes.refresh_s, self._knobs.refresh_token_s))
            session.refresh = RefreshToken(session, now + refresh_s, refresh_s)
            self._refresh[session.refresh.value] = session.refresh
        return Grant(session.access, session.refresh)

    def _repeatable_until(self, token: RefreshToken) -> float:
        used_at = token.spent_for.access.used_at if token.spent_for else None
        if used_at is None:
            return token.spent_at + self._clock.scaled_s(REPEAT_UNUSED_S)
        return used_at + self._clock.scaled_s(REPEAT_USED_S)

    def _is_alive(self, session: OAuthSession) -> bool:
        now = self._clock.now()
        tokens = (session.access, session.refresh)
        return not session.is_over and not session.is_bot and any(token and now < token.expires_at for token in tokens)


def _bounded(asked_s: float | None, most_s: float) -> float:
    """Return what is granted. Clients ask, as the official SDK does each time: a knob has to count all the same."""
    return most_s if asked_s is None else min(asked_s, most_s)


def _expired() -> Refused:
    return oauth_error(400, "invalid_grant", "OAU-210", "Token expired")
