"""Can we cause an event, to see it arrive? On the simulator always; at RingCentral by a message to oneself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import structlog

from rc_push.config import is_loopback
from rc_push.errors import RcPushError
from rc_push.protocol.subscription import records_in
from rc_push.rest import Account

log = structlog.get_logger()

POSTS = ("/team-messaging/v1/posts", "/restapi/v1.0/glip/posts")
CHATS = "/team-messaging/v1/chats"
TEXT = "rc-push doctor looks whether events arrive. This message is removed at once."
SIMULATOR_WITHIN_S = 10.0

IsOurs = Callable[[bytes], bool]


@asynccontextmanager
async def caused_event(account: Account, event_filters: Sequence[str]) -> AsyncIterator[IsOurs | None]:
    """Cause an event that one of *event_filters* matches, and undo it at the end; None where we cannot.

    What comes tells whether a payload is of it. Raises what RingCentral's refusal means.
    """
    uuid = await asyncio.to_thread(_simulated, account.config.server, event_filters[0])
    if uuid:
        yield lambda payload: uuid.encode() in payload
        return
    if not any(event_filter.partition("?")[0].rstrip("/") in POSTS for event_filter in event_filters):
        yield None
        return
    async with _post_to_oneself(account) as post_id:
        yield None if post_id is None else lambda payload: _id_in(payload) == post_id


def _simulated(server: str, event_filter: str) -> str:
    """Have the simulator at *server* emit an event; return its uuid, empty where it is no simulator."""
    from rc_push.cli.trigger import post_to

    if not is_loopback(urlsplit(server).hostname or ""):
        return ""
    event = {"event": event_filter.partition("?")[0], "body": {"eventType": "PostAdded", "text": TEXT}}
    try:
        return str(post_to(f"{server}/simulator/events", event, SIMULATOR_WITHIN_S)["uuids"][0])
    except (RcPushError, ValueError, KeyError, TypeError, IndexError):
        return ""


@asynccontextmanager
async def _post_to_oneself(account: Account) -> AsyncIterator[str | None]:
    """Post into the user's own chat, where nobody else reads, and remove it. Gives the post's id."""
    chats = await account.request("GET", CHATS, query={"type": "Personal", "recordCount": 1})
    chat_id = _id_of(next(iter(records_in(chats)), None))
    post_id = None
    if chat_id:
        post_id = _id_of(await account.request("POST", f"{CHATS}/{chat_id}/posts", body={"text": TEXT}))
    try:
        yield post_id
    finally:
        if post_id:
            await _remove(account, f"{CHATS}/{chat_id}/posts/{post_id}")


async def _remove(account: Account, path: str) -> None:
    try:
        await account.request("DELETE", path)
    except RcPushError as exc:
        log.warning("post_left_behind", path=path, error=str(exc))


def _id_of(record: Any) -> str | None:
    found = record.get("id") if isinstance(record, dict) else None
    return str(found) if found else None


def _id_in(payload: bytes) -> str | None:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return _id_of(event.get("body")) if isinstance(event, dict) else None
