"""What does an event of a given type look like? One realistic event per type, made from a number.

The shapes are RingCentral's (protocol.md 8); ids and texts are our own. `~` stands for the subscriber's ids.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rc_push.simulator.people import ACCOUNT_ID, EXTENSION_ID

Sample = tuple[str, dict[str, Any]]

POSTS = "/team-messaging/v1/posts"
CHATS = "/team-messaging/v1/chats"
A = "/restapi/v1.0/account/~"
E = f"{A}/extension/~"
CUSTOMER = {"phoneNumber": "+12025550143", "location": "Washington, DC"}
DESK = {"phoneNumber": "+12025550111", "name": "Service Desk"}
TEXTS = (
    "The delivery has arrived at the front desk.",
    "Can somebody take the call on line 2?",
    "Release notes are ready for review.",
    "The projector in room 4 works again.",
)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _post(event_type: str) -> Callable[[int], Sample]:
    def make(n: int) -> Sample:
        body = {
            "id": str(30_000_000_000_000 + n),
            "groupId": "990011223344",
            "type": "TextMessage",
            "text": TEXTS[n % len(TEXTS)],
            "creatorId": EXTENSION_ID,
            "addedPersonIds": None,
            "creationTime": _now(),
            "lastModifiedTime": _now(),
            "attachments": None,
            "activity": None,
            "title": None,
            "iconUri": None,
            "iconEmoji": None,
            "mentions": None,
            "eventType": event_type,
        }
        return POSTS, body

    return make


def _post_removed(n: int) -> Sample:
    return POSTS, {"id": str(30_000_000_000_000 + n), "eventType": "PostRemoved"}


def _chat(event_type: str) -> Callable[[int], Sample]:
    def make(n: int) -> Sample:
        body = {
            "id": str(48_000_000_000 + n),
            "name": f"Project {n}",
            "description": "Everything about the project",
            "type": "Team",
            "status": "Active",
            "members": [EXTENSION_ID, "4010003004", "4010005004"],
            "isPublic": False,
            "creationTime": _now(),
            "lastModifiedTime": _now(),
            "eventType": event_type,
        }
        return CHATS, body

    return make


def _group_left(n: int) -> Sample:
    return CHATS, {"id": str(48_000_000_000 + n), "eventType": "GroupLeft"}


def _webhook(event_type: str) -> Callable[[int], Sample]:
    def make(n: int) -> Sample:
        hook = {
            "id": f"7c9e6679-7425-40de-944b-{n:012d}",
            "creatorId": EXTENSION_ID,
            "groupIds": ["990011223344"],
            "creationTime": _now(),
            "lastModifiedTime": _now(),
            "uri": f"https://hooks.example.com/webhook/v2/{n}",
            "status": "Active",
        }
        body = hook if event_type != "WebhookUpdated" else {"before": {"status": "Suspended"}, "after": hook}
        return "/restapi/v1.0/glip/webhooks", body | {"eventType": event_type}

    return make


def _message_store(n: int) -> Sample:
    change = {"type": "SMS", "newCount": 1, "updatedCount": 0, "newMessageIds": [1_500_000_000 + n]}
    body = {"accountId": ACCOUNT_ID, "extensionId": EXTENSION_ID, "lastUpdated": _now(), "changes": [change]}
    return f"{E}/message-store", body


def _message(n: int, kind: str, attachment: dict[str, Any], **more: Any) -> dict[str, Any]:
    message_id = str(1_500_000_000 + n)
    uri = f"/restapi/v1.0/account/{ACCOUNT_ID}/extension/{EXTENSION_ID}/message-store/{message_id}/content/{message_id}"
    return {
        "id": message_id,
        "to": [DESK],
        "from": CUSTOMER,
        "type": kind,
        "creationTime": _now(),
        "lastModifiedTime": _now(),
        "readStatus": "Unread",
        "priority": "Normal",
        "attachments": [{"id": message_id, "uri": uri} | attachment],
        "direction": "Inbound",
        "availability": "Alive",
        "messageStatus": "Received",
    } | more


def _sms(n: int) -> Sample:
    conversation = str(5_200_000_000_000_000 + n % 7)
    body = _message(
        n,
        "SMS",
        {"type": "Text", "contentType": "text/plain", "size": 0},
        subject=TEXTS[n % len(TEXTS)],
        conversationId=conversation,
        conversation={"id": conversation},
        eventType="Create",
        owner={"extensionId": EXTENSION_ID, "extensionType": "User"},
    )
    return f"{E}/message-store/instant?type=SMS", body


def _voicemail(n: int) -> Sample:
    attachment = {"type": "AudioRecording", "contentType": "audio/mpeg", "vmDuration": 5 + n % 50}
    return f"{E}/voicemail", _message(n, "VoiceMail", attachment, vmTranscriptionStatus="NotAvailable")


def _fax(n: int) -> Sample:
    attachment = {"type": "RenderedDocument", "contentType": "application/pdf"}
    return f"{E}/fax?direction=Inbound", _message(n, "Fax", attachment, faxResolution="High", faxPageCount=1 + n % 4)


def _presence(n: int) -> Sample:
    body = {
        "extensionId": EXTENSION_ID,
        "telephonyStatus": ("NoCall", "Ringing", "CallConnected")[n % 3],
        "sequence": 1 + n,
        "presenceStatus": ("Available", "Busy", "Busy")[n % 3],
        "userStatus": "Available",
        "meetingStatus": "Disconnected",
        "dndStatus": "TakeAllCalls",
        "allowSeeMyPresence": True,
        "ringOnMonitoredCall": False,
        "pickUpCallsOnHold": False,
        "totalActiveCalls": int(n % 3 > 0),
    }
    return f"{E}/presence", body


def _presence_line(n: int) -> Sample:
    return f"{E}/presence/line", {"extension": [{"id": "4010003004"}, {"id": str(1 + n % 9)}], "sequence": 1 + n}


def _presence_queue(n: int) -> Sample:
    body = {"member": {"id": EXTENSION_ID}, "acceptCurrentQueueCalls": n % 2 == 0}
    return f"{A}/call-queues/4010009004/presence", body


def _dnd(n: int) -> Sample:
    statuses = ("TakeAllCalls", "DoNotAcceptAnyCalls", "DoNotAcceptDepartmentCalls")
    return f"{E}/presence/dnd", {"extensionId": EXTENSION_ID, "dndStatus": statuses[n % 3]}


def _telephony(n: int) -> Sample:
    step = ("Setup", "Proceeding", "Answered", "Disconnected")[n % 4]
    call = n // 4
    party = {
        "id": f"p-{call:032x}-1",
        "accountId": ACCOUNT_ID,
        "extensionId": EXTENSION_ID,
        "direction": "Inbound",
        "from": CUSTOMER,
        "to": DESK | {"extensionId": EXTENSION_ID},
        "status": {"code": step, "rcc": False},
        "missedCall": False,
        "standAlone": False,
        "muted": False,
    }
    body = {
        "sequence": 1 + n % 4,
        "sessionId": str(7_000_000_000 + call),
        "telephonySessionId": f"s-{call:032x}",
        "serverId": "10.0.0.1.TAM",
        "eventTime": _now(),
        "parties": [party],
        "origin": {"type": "Call"},
    }
    return f"{E}/telephony/sessions", body


def _extension(_: int) -> Sample:
    return E, {"extensionId": EXTENSION_ID, "eventType": "Update", "hints": ["ExtensionInfo"]}


def _directory(n: int) -> Sample:
    contact = {
        "eventType": "Update",
        "id": str(4_010_010_004 + n),
        "type": "User",
        "status": "Enabled",
        "name": f"Extension {110 + n}",
        "etag": f"{n:032x}",
    }
    return f"{A}/directory/entries", {"contacts": [contact]}


def _sms_batch(n: int) -> Sample:
    body = {
        "id": f"9b2d1c3e-0000-4000-8000-{n:012d}",
        "from": DESK["phoneNumber"],
        "batchSize": 10,
        "processedCount": 10,
        "status": "Completed",
        "cost": 0.07,
        "creationTime": _now(),
        "lastModifiedTime": _now(),
    }
    return f"{A}/a2p-sms/batches", body


def _reminder(n: int) -> Sample:
    return "/restapi/v1.0/subscription/~?threshold=60&interval=15", {"expiresIn": 60 - n % 60}


# type (see event_types.py) → how to make the event that has it
SAMPLES: dict[str, Callable[[int], Sample]] = {
    "post.added": _post("PostAdded"),
    "post.changed": _post("PostChanged"),
    "post.removed": _post_removed,
    "group.joined": _chat("GroupJoined"),
    "group.changed": _chat("GroupChanged"),
    "group.renamed": _chat("GroupRenamed"),
    "group.left": _group_left,
    "webhook.created": _webhook("WebhookCreated"),
    "webhook.updated": _webhook("WebhookUpdated"),
    "webhook.deleted": _webhook("WebhookDeleted"),
    "message-store.changed": _message_store,
    "sms.received": _sms,
    "voicemail.received": _voicemail,
    "fax.received": _fax,
    "presence.changed": _presence,
    "presence.line.changed": _presence_line,
    "presence.queue.changed": _presence_queue,
    "dnd.changed": _dnd,
    "telephony.session": _telephony,
    "extension.updated": _extension,
    "directory.changed": _directory,
    "sms.batch.changed": _sms_batch,
    "subscription.reminder": _reminder,
}


def sample(type_: str, number: int = 0) -> Sample:
    """Return the event URI and the body of the *number*-th event of *type_*. Raises KeyError where there is none."""
    return SAMPLES[type_](number)
