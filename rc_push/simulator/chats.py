"""What does Team Messaging offer? A user's own chat, and posts in it: as much as it takes to cause an event.

Knows chats and posts; what becomes of an event is the emitter's.
"""

from __future__ import annotations

import secrets

from rc_push.simulator.answers import Answer, Call, not_found, rest_error
from rc_push.simulator.emitter import Emitter, Event
from rc_push.simulator.people import User
from rc_push.simulator.samples import POSTS
from rc_push.simulator.state import World

PERMISSION = "TeamMessaging"
TEXT_MAX_CHARS = 10_000


def list_all(world: World, call: Call) -> Answer:
    """Return the caller's own chat; there are no others."""
    user = _caller(world, call)
    is_asked_for = "Personal" in call.query.get("type", "Personal")
    return Answer(200, {"records": [{"id": _chat_id(user), "type": "Personal"}] if is_asked_for else []})


def add_post(world: World, call: Call) -> Answer:
    """Post; tell the subscribers."""
    user = _owner(world, call)
    text = call.json().get("text")
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_MAX_CHARS:
        raise rest_error(400, "CMN-101", "Parameter [text] value is invalid", parameterName="text")
    post = {
        "id": str(40_000_000_000_000 + secrets.randbelow(1_000_000_000)),
        "groupId": call.ids["chatId"],
        "type": "TextMessage",
        "text": text,
        "creatorId": user.extension_id,
        "creationTime": world.clock.iso(),
        "lastModifiedTime": world.clock.iso(),
    }
    Emitter(world).emit([Event(POSTS, post | {"eventType": "PostAdded"})])
    return Answer(201, post)


def delete_post(world: World, call: Call) -> Answer:
    """Remove a post; tell the subscribers. Posts are not kept, so any id will do."""
    _owner(world, call)
    Emitter(world).emit([Event(POSTS, {"id": call.ids["postId"], "eventType": "PostRemoved"})])
    return Answer(204)


def _caller(world: World, call: Call) -> User:
    assert call.oauth is not None  # noqa: S101 - the table says that the caller is known
    if PERMISSION not in world.knobs.permissions:
        raise rest_error(403, "CMN-401", "Specific application permission required", permissionName=PERMISSION)
    return call.oauth.user


def _owner(world: World, call: Call) -> User:
    user = _caller(world, call)
    if call.ids["chatId"] != _chat_id(user):
        raise not_found("chatId")
    return user


def _chat_id(user: User) -> str:
    return f"99{user.extension_id}"
