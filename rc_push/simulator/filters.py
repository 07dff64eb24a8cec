"""Which event filters are there, and which event matches which? Pure functions over URIs (protocol.md 8)."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from rc_push.simulator.answers import rest_error
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.people import User

_A = r"/restapi/v1\.0/account/(?P<account>[^/]+)"
_E = _A + r"/extension/(?P<extension>[^/]+)"
_V2 = r"/restapi/v2/accounts/(?P<account>[^/]+)"
REMINDER = re.compile(r"/restapi/v1\.0/subscription/~")

# The families that RingCentral documents, or that real clients have subscribed to.
FAMILIES = tuple(
    re.compile(pattern)
    for pattern in (
        r"/team-messaging/v1/(posts|chats|groups)",
        r"/restapi/v1\.0/glip/(posts|groups|webhooks|teams)",
        _E + r"/message-store(/instant)?",
        _E + r"/(voicemail|fax|favorite|grant|missed-calls|incoming-call-pickup|start-ring|stop-ring)",
        _E + r"/(inbound-messages|unified-presence)",
        _E + r"/presence(/line(/presence)?|/dnd)?",
        _E + r"/favorite/presence",
        _E + r"/telephony/sessions",
        _E,
        _A + r"/(presence|extension|directory/entries|phone-number)",
        _A + r"/telephony/sessions",
        _A + r"/call-queues/[^/]+/presence",
        _A + r"/device/[^/]+/emergency-address",
        _A + r"/a2p-sms/(batches(/[^/]+)?|messages|opt-outs)",
        _A + r"/message-threads/(entries/)?sync",
        _V2 + r"/extensions/(?P<extension>[^/]+)/sms/(messages|batches)",
        _V2 + r"/sms/consents",
        r"/ai/ringsense/v1/public/accounts/(?P<account>[^/]+)/domains/(pbx|rcv|rcx|ms-teams|nice-incontact)/insights",
        REMINDER.pattern,
    )
)

# Older or other spellings of the same family.
_SAME = {
    "/restapi/v1.0/glip/posts": "/team-messaging/v1/posts",
    "/restapi/v1.0/glip/groups": "/team-messaging/v1/chats",
    "/restapi/v1.0/glip/teams": "/team-messaging/v1/chats",
    "/team-messaging/v1/groups": "/team-messaging/v1/chats",
}
# Events of these name an extension, and filters of a whole account match them.
_OF_ACCOUNT = re.compile(r"(/restapi/v1\.0/account/[^/]+)/extension/[^/]+(/presence|/telephony/sessions)")


def expanded(uri: str, user: User) -> str:
    """Return *uri* with each `~` of an account or an extension replaced by the ids of *user*."""
    uri = re.sub(r"(/accounts?/)~", rf"\g<1>{user.account_id}", uri)
    return re.sub(r"(/extensions?/)~", rf"\g<1>{user.extension_id}", uri)


def matches(event_filter: str, event: str) -> bool:
    """Say whether *event* matches *event_filter*, both expanded.

    A filter's query selects where the event has a query too; where it has none, it only asks for more details.
    """
    filter_path, _, filter_query = event_filter.partition("?")
    event_path, _, event_query = event.partition("?")
    ours, theirs = _canonical(filter_path), _canonical(event_path)
    if ours != theirs and ours != _of_account(theirs):
        return False
    return not event_query or set(parse_qsl(filter_query)) <= set(parse_qsl(event_query))


def check(event_filters: list[str], user: User, knobs: Knobs) -> None:
    """Raise Refused where RingCentral would not take *event_filters* of *user*."""
    bad = [text for text in event_filters if not _is_known(text, knobs)]
    if bad or (knobs.max_event_filters and len(event_filters) > knobs.max_event_filters):
        raise rest_error(400, "SUB-508", f"Invalid event filters: [{', '.join(bad or event_filters)}]")
    for text in event_filters:
        if _account_of(expanded(text, user)) not in ("", user.account_id):
            message = "Not allowed subscribe for events to extensions of other account"
            raise rest_error(403, "SUB-406", message)
    _check_reminders([text for text in event_filters if REMINDER.match(text)], event_filters)


def _check_reminders(reminders: list[str], event_filters: list[str]) -> None:
    if reminders and len(reminders) == len(event_filters):
        raise rest_error(400, "SUB-515", "Reminder filter cannot be the only filter")
    for text in reminders:
        numbers = dict(parse_qsl(text.partition("?")[2]))
        threshold, interval = numbers.get("threshold", ""), numbers.get("interval", "")
        if not (threshold.isdecimal() and interval.isdecimal() and 0 < int(interval) <= int(threshold) / 2):
            raise rest_error(400, "SUB-516", "Invalid reminder parameters")


def _is_known(event_filter: str, knobs: Knobs) -> bool:
    path = event_filter.partition("?")[0].rstrip("/")
    spelling = path.removeprefix("/team-messaging/v1/")
    if spelling in ("chats", "groups") and knobs.groups_filter not in ("both", spelling):
        return False
    return any(family.fullmatch(path) for family in FAMILIES)


def _account_of(event_filter: str) -> str:
    for family in FAMILIES:
        match = family.fullmatch(event_filter.partition("?")[0].rstrip("/"))
        if match:
            return match.groupdict().get("account") or ""
    return ""


def _canonical(path: str) -> str:
    path = path.rstrip("/")
    return _SAME.get(path, path)


def _of_account(path: str) -> str:
    match = _OF_ACCOUNT.fullmatch(path)
    return match[1] + match[2] if match else ""
