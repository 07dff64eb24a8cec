"""Which events have to wait for one another? The key of each, from one table.

Knows RingCentral's payloads; knows nothing of handlers, retries or the journal.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import msgspec

from rc_push.envelope import Envelope

# Known ids have at most 60 characters, URIs about 120. What is longer is cut: at worst, strangers then share a key.
KEY_MAX_LENGTH = 200
# Posts whose chat `Keys` remembers; about 250 bytes each.
REMEMBERED_POSTS = 2048
# How the keys of these begin.
CHAT = "chat:"

_MESSAGE = (
    ("conversation", "conversationId"),
    ("conversation", "conversation"),  # an id, or an object with one: both are published (protocol.md 8)
    ("message", "id"),
)
# Family (a type up to its first dot) → what its events are about, and where the body has its id; the first that is
# there counts. Where none is, and for all other families, it is the resource that `event` names.
#
# A post and a change of its chat share a key: a group's `id` is what its posts have as `groupId`.
# A PostRemoved may name its own id alone (captured so; the documentation adds `groupId`). No key that is made from
# it alone can stand behind a post whose key is the chat. `Keys`, which has seen the post, knows the chat; `key_of` says
# `post:ID`, so that at least several removals of one post stay in order.
FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "telephony": (("call", "telephonySessionId"),),
    "post": (("chat", "groupId"), ("post", "id")),
    "group": (("chat", "id"),),
    "sms": _MESSAGE,
    "pager": _MESSAGE,
    "fax": _MESSAGE,
    "voicemail": _MESSAGE,
    "presence": (("extension", "extensionId"),),
    "dnd": (("extension", "extensionId"),),  # a part of presence
}

_Id = str | int | None


class _Object(msgspec.Struct):
    id: _Id = None


class _Body(msgspec.Struct):
    """What `FAMILIES` names, and nothing else: the decoder steps over the rest."""

    id: _Id = None
    groupId: _Id = None  # noqa: N815 - RingCentral's spelling
    telephonySessionId: _Id = None  # noqa: N815 - RingCentral's spelling
    extensionId: _Id = None  # noqa: N815 - RingCentral's spelling
    conversationId: _Id = None  # noqa: N815 - RingCentral's spelling
    conversation: str | int | _Object | None = None


class _Payload(msgspec.Struct):
    event: str = ""
    body: _Body | None = None


_decode_fast = msgspec.json.Decoder(_Payload).decode


def key_of(envelope: Envelope) -> str:
    """Return what *envelope* is about: `chat:990011223344`. Events with the same key have an order. Raises nothing.

    It depends on the envelope alone; `Keys` knows more.
    """
    return _key(envelope, _read(envelope.payload))


class Keys:
    """The keys of events that come in their order: as from `key_of`, but a removal is in the chat of its post.

    It has to see every event that can still be unfinished, those first that wait for a retry. A removal that comes
    when its post is `REMEMBERED_POSTS` posts away has the key that `key_of` gives. Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._chats: OrderedDict[str, str] = OrderedDict()

    def key_of(self, envelope: Envelope) -> str:
        """Return the key of *envelope*. Raises nothing."""
        payload = _read(envelope.payload)
        key = _key(envelope, payload)
        if payload.body is None or not envelope.type.startswith("post."):
            return key
        post = f"{payload.body.id}"[:KEY_MAX_LENGTH]
        if not key.startswith(CHAT):
            return self._chats.get(post, key)
        self._chats[post] = key
        self._chats.move_to_end(post)
        if len(self._chats) > REMEMBERED_POSTS:
            self._chats.popitem(last=False)
        return key


def _key(envelope: Envelope, payload: _Payload) -> str:
    body = payload.body
    if body is not None:
        for what, name in FAMILIES.get(envelope.type.partition(".")[0], ()):
            id_ = getattr(body, name)
            if isinstance(id_, _Object):
                id_ = id_.id
            if id_ is not None and id_ != "":
                return f"{what}:{id_}"[:KEY_MAX_LENGTH]
    # `~` in a URI means something else for each account.
    return f"{envelope.account} {payload.event.partition('?')[0]}"[:KEY_MAX_LENGTH]


def _read(payload: bytes) -> _Payload:
    try:
        return _decode_fast(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_leniently(payload)


def _read_leniently(payload: bytes) -> _Payload:
    """Read what the typed decoder refuses: ids that are no ids, a body that is no object, halves of emojis."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return _Payload()
    if not isinstance(fields, dict):
        return _Payload()
    event, body = fields.get("event"), fields.get("body")
    if isinstance(body, dict) and isinstance(body.get("conversation"), dict):
        body |= {"conversation": body["conversation"].get("id")}
    ids = {name: _id_from(body.get(name)) for name in _Body.__struct_fields__} if isinstance(body, dict) else {}
    return _Payload(_storable(event) if isinstance(event, str) else "", _Body(**ids))


def _id_from(value: Any) -> _Id:
    if isinstance(value, str):
        return _storable(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _storable(text: str) -> str:
    """Return *text* without halves of emojis, which can be neither stored nor printed."""
    return text.encode(errors="replace").decode()
