"""Which permission does an event filter need? As far as RingCentral's documentation names one (protocol.md 8).

A hint for people: what counts is RingCentral's answer to a subscription.
"""

from __future__ import annotations

import re

# The first that is found in the filter's path. Source: RingCentral's pages of the event filters.
_NEEDED = tuple(
    (re.compile(pattern), permission)
    for pattern, permission in (
        (r"^/team-messaging/|/glip/", "TeamMessaging"),
        (r"/message-store|/voicemail|/fax|/inbound-messages", "ReadMessages"),
        (r"/extension/[^/]+/presence/dnd", "ReadAccounts"),
        (r"/account/[^/]+/presence", "ReadAccounts"),
        (r"/presence", "ReadPresence"),
        (r"/telephony/sessions", "CallControl"),
        (r"/favorite", "ReadContacts"),
        (r"/a2p-sms/|/directory/|/grant|/device/|/phone-number|/account/[^/]+/extension(/[^/]+)?$", "ReadAccounts"),
    )
)


def permission_for(event_filter: str) -> str:
    """Return the permission that *event_filter* needs by the documentation; empty where that names none."""
    path = event_filter.partition("?")[0].rstrip("/")
    return next((permission for pattern, permission in _NEEDED if pattern.search(path)), "")


def missing_in(scope: str, event_filter: str) -> str:
    """Return the permission that *event_filter* needs and a token's *scope* does not name; empty where all is well.

    A scope that names nothing of the kind says nothing.
    """
    named = set(scope.split())
    known = {permission for _, permission in _NEEDED}
    needed = permission_for(event_filter)
    return needed if named & known and needed and needed not in named else ""
