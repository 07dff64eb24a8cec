"""How does a command use an account beside the daemon? It shares what is there, and leaves nothing behind.

Knows the daemon's journal and an account; knows nothing of what the command asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from rc_push.errors import JournalError, RcPushError
from rc_push.exchanges import RECONNECT_SPARE
from rc_push.journal.reader import Reader
from rc_push.oauth import OAuthSession
from rc_push.protocol.subscription import PATH
from rc_push.rest import Account
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.config import Config

log = structlog.get_logger()


@asynccontextmanager
async def visiting(config: Config, name: str) -> AsyncIterator[Account]:
    """Open the account *name* with the daemon's session where that lives; a session of our own is revoked at the end.

    What the daemon has used up of the limits counts, and beside its session some of them are left to it.
    """
    glance = Glance(config)
    spare = RECONNECT_SPARE if await glance.load_session(name) else 0
    async with Account(config.accounts[name], config.network, glance, records=glance, spare=spare) as account:
        try:
            yield account
        finally:
            for subscription_id in glance.created:
                await _delete(account, subscription_id)
            if glance.has_logged_in:
                await account.revoke()


def failure_of(name: str, error: RcPushError) -> str:
    """Return a line for people: what went wrong with the account *name*, which not every *error* names."""
    about = f"account {name}: "
    return printable(f"rc-push: {about}{str(error).removeprefix(about)}")


def journal_of(config: Config) -> Reader | None:
    """Open the daemon's journal; None where there is none yet. Raises JournalError where it cannot be read."""
    with suppress(PermissionError):  # whether it is there cannot be seen: opening it says why
        if not config.journal.path.exists():
            return None
    return Reader(config.journal.path)


def our_webhooks(config: Config) -> dict[str, str]:
    """Return our subscriptions' names by the ids of the webhooks that the journal has of them. Raises JournalError."""
    from rc_push.transports.webhook_state import state_from

    opened = journal_of(config)
    if opened is None:
        return {}
    with closing(opened) as reader:
        states = reader.webhooks()
    return {hook.id: name for name, saved in states.items() for hook in state_from(saved, name).hooks() if hook.id}


async def _delete(account: Account, subscription_id: str) -> None:
    try:
        await account.request("DELETE", f"{PATH}/{subscription_id}")
    except RcPushError as exc:  # it ends by itself, in minutes
        log.warning("subscription_left_behind", id=subscription_id, error=str(exc))


class Glance:
    """Lets an account use a live access token of the daemon, and keeps what a login gives to itself."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.has_logged_in = False
        self.created: list[str] = []

    async def load_session(self, account: str) -> bytes | None:
        """Return the daemon's session while its access token lives: refreshing it would take it from the daemon."""
        session = _live_from(self._read("oauth_session", account))
        return None if session is None else msgspec.json.encode(session)

    async def save_session(self, account: str, session: bytes) -> None:  # noqa: ARG002 - the interface's
        """Note that there is a session to revoke."""
        self.has_logged_in = bool(session)

    async def load_limits(self, account: str) -> bytes | None:
        """Return what the daemon has used up."""
        return self._read("rest_limits", account)

    async def save_limits(self, account: str, limits: bytes) -> None:
        """Leave the journal to the daemon, which learns of our requests from the answers to its own."""

    async def note_created(self, account: str, subscription_id: str) -> None:  # noqa: ARG002 - the interface's
        """Note what there is to delete."""
        self.created.append(subscription_id)

    def _read(self, what: str, account: str) -> bytes | None:
        try:
            reader = Reader(self._config.journal.path)
        except JournalError:  # no journal yet: nothing to use
            return None
        try:
            found: bytes | None = getattr(reader, what)(account)
        except JournalError:  # an older rc-push has written it, and kept less
            return None
        finally:
            reader.close()
        return found


def _live_from(stored: bytes | None) -> OAuthSession | None:
    """Return the daemon's session without its refresh token, which is the daemon's to use."""
    try:
        session = msgspec.json.decode(stored or b"", type=OAuthSession)
    except msgspec.DecodeError:
        return None
    return None if session.is_due(datetime.now(UTC)) else msgspec.structs.replace(session, refresh_token="")
