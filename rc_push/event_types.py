"""What kind of event is this? One pure function over RingCentral's body and event URI; knows nothing else.

RingCentral has no such name. Ours is stable and dotted (`post.added`), so that routes survive RingCentral's renaming of
URIs. The body decides before the URI: real group events have arrived with the posts URI in `event` (protocol.md 7).
"""

from __future__ import annotations

import re
from typing import Any

OTHER = "other"
REMINDER = "subscription.reminder"
# Ours: what the daemon itself tells handlers. Only handlers whose `types` name it get it (routing.py).
OWN = "rc-push."
GAP = f"{OWN}gap"
GAP_URI = "/rc-push/gap"

# body.eventType → type. Source: protocol.md 8, Team Messaging.
BY_EVENT_TYPE = {
    "PostAdded": "post.added",
    "PostChanged": "post.changed",
    "PostRemoved": "post.removed",
    "GroupAdded": "group.added",
    "GroupJoined": "group.joined",
    "GroupLeft": "group.left",
    "GroupChanged": "group.changed",
    "GroupRenamed": "group.renamed",
    "WebhookCreated": "webhook.created",
    "WebhookUpdated": "webhook.updated",
    "WebhookDeleted": "webhook.deleted",
}

# A key that only one family's body has → type; the first that is there wins, so the narrower stand first.
BY_KEY = (
    ("telephonySessionId", "telephony.session"),
    ("acceptCurrentQueueCalls", "presence.queue.changed"),
    ("telephonyStatus", "presence.changed"),
    ("presenceStatus", "presence.changed"),
    ("dndStatus", "dnd.changed"),
    ("changes", "message-store.changed"),
    ("extensions", "extension.updated"),
    ("hints", "extension.updated"),
    ("contacts", "directory.changed"),
    ("phoneNumberInfo", "phone-number.changed"),
    ("insights", "insights.added"),
    ("batchSize", "sms.batch.changed"),
)

# body.type of a whole message → the word its type begins with.
BY_MESSAGE_TYPE = {"SMS": "sms", "Pager": "pager", "Fax": "fax", "VoiceMail": "voicemail", "Voicemail": "voicemail"}

# The event URI, where the body says nothing → type. Ids, `~` and the query are passed over.
BY_URI = (
    (re.compile(r"/subscription/[^/]+$"), REMINDER),
    (re.compile(r"/telephony/sessions(/|$)"), "telephony.session"),
    (re.compile(r"/presence/line(/presence)?$"), "presence.line.changed"),
    (re.compile(r"/favorite/presence$"), "presence.line.changed"),
    (re.compile(r"/presence/dnd$"), "dnd.changed"),
    (re.compile(r"/call-queues/[^/]+/presence$"), "presence.queue.changed"),
    (re.compile(r"/presence$"), "presence.changed"),
    (re.compile(r"/message-store/instant$"), "sms.received"),
    (re.compile(r"/message-store$"), "message-store.changed"),
    (re.compile(r"/voicemail$"), "voicemail.received"),
    (re.compile(r"/fax$"), "fax.received"),
    (re.compile(r"/favorite$"), "favorite.changed"),
    (re.compile(r"/grant$"), "grant.changed"),
    (re.compile(r"/emergency-address$"), "emergency-address.changed"),
    (re.compile(r"/directory/entries$"), "directory.changed"),
    (re.compile(r"/opt-outs$"), "sms.opt-out.changed"),
    (re.compile(r"/sms/consents$"), "sms.opt-out.changed"),
    (re.compile(r"/(a2p-)?sms/batches(/|$)"), "sms.batch.changed"),
    (re.compile(r"/message-threads/(entries/)?sync$"), "message-thread.changed"),
    (re.compile(r"/phone-number$"), "phone-number.changed"),
    (re.compile(r"/insights$"), "insights.added"),
    (re.compile(r"/extension/[^/]+$"), "extension.updated"),
    (re.compile(r"/extension$"), "extension.updated"),
)

# A whole message by direction. RingCentral's families of sent messages are high-volume SMS and SMS v2 only.
_SENT = {"Outbound": "sent"}


def type_from(event: str, body: Any) -> str:
    """Return the stable dotted name of an event from its URI *event* and its parsed *body*; `other`, never an error."""
    if isinstance(body, dict):
        return _type_from_event_type(body) or _type_from_keys(body) or _type_from_uri(event)
    return _type_from_uri(event)


def _type_from_event_type(body: dict[str, Any]) -> str | None:
    name = body.get("eventType")
    if name is None and isinstance(body.get("data"), dict):
        name = body["data"].get("eventType")  # the form of RingCentral's generic example
    return BY_EVENT_TYPE.get(name) if isinstance(name, str) else None


def _type_from_keys(body: dict[str, Any]) -> str | None:
    for key, name in BY_KEY:
        if key in body:
            return name
    if isinstance(body.get("extension"), list) and "sequence" in body:
        return "presence.line.changed"
    verb = _SENT.get(str(body.get("direction")), "received")
    message_type = body.get("type")
    if isinstance(message_type, str) and message_type in BY_MESSAGE_TYPE:
        return f"{BY_MESSAGE_TYPE[message_type]}.{verb}"
    if "segmentCount" in body:  # high-volume SMS and SMS v2 name no type
        return f"sms.{verb}"
    return None


def _type_from_uri(event: str) -> str:
    path = event.partition("?")[0].rstrip("/")
    for pattern, name in BY_URI:
        if pattern.search(path):
            return name
    return OTHER
