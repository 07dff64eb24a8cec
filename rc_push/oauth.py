"""What is an OAuth session? Its tokens, how long they are good, and how RingCentral grants them.

Data only: knows no clock (times are arguments), no HTTP and no journal.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

# An access token is refreshed this long before it expires, or a third of its life where that is less.
LEEWAY_S = 120.0
LIFE_MAX_S = 366 * 86400.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class OAuthSession(msgspec.Struct, frozen=True):
    """One OAuth session, as it is saved. *fingerprint* says which configuration it belongs to."""

    access_token: str
    issued_at: _Instant
    expires_at: _Instant
    refresh_token: str = ""
    refresh_expires_at: _Instant | None = None
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

    def ended(self) -> OAuthSession:
        """Return it without a life for its access token, whatever becomes of the clock."""
        return msgspec.structs.replace(self, issued_at=_LONG_AGO, expires_at=_LONG_AGO)


def session_from(saved: bytes, fingerprint: str) -> OAuthSession:
    """Return the session that was *saved*. Raises ValueError, which says why, where it cannot be gone on with."""
    try:
        session = msgspec.json.decode(saved, type=OAuthSession)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("unreadable") from None
    if session.fingerprint != fingerprint:
        raise ValueError("other credentials or server")
    return session


class TokenInfo(msgspec.Struct):
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


def granted(info: TokenInfo, at: datetime, fingerprint: str, old: OAuthSession | None = None) -> OAuthSession:
    """Return the session that *info* grants at the moment *at*; a refresh may leave out what *old* has already."""
    refresh_life_s = info.refresh_token_expires_in
    return OAuthSession(
        access_token=info.access_token,
        issued_at=at,
        expires_at=at + _life(info.expires_in),
        refresh_token=info.refresh_token or "",
        refresh_expires_at=None if refresh_life_s is None else at + _life(refresh_life_s),
        session_id=str(info.session_id or (old.session_id if old else "")),
        owner_id=str(info.owner_id or (old.owner_id if old else "")),
        fingerprint=fingerprint,
        scope=info.scope or (old.scope if old else ""),
    )


def endless(access_token: str, at: datetime) -> OAuthSession:
    """Return a session for a bot's token: it has no end that we know of."""
    return OAuthSession(access_token, issued_at=at, expires_at=datetime.max.replace(tzinfo=UTC))


def _life(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(0.0, seconds), LIFE_MAX_S))
