"""Which permission an event filter needs, as far as the documentation says."""

from __future__ import annotations

import pytest

from rc_push.protocol.permissions import missing_in, permission_for

POSTS = "/team-messaging/v1/posts"


@pytest.mark.parametrize(
    ("event_filter", "permission"),
    [
        (POSTS, "TeamMessaging"),
        ("/restapi/v1.0/glip/posts", "TeamMessaging"),
        ("/restapi/v1.0/account/~/extension/~/message-store", "ReadMessages"),
        ("/restapi/v1.0/account/~/extension/~/message-store/instant?type=SMS", "ReadMessages"),
        ("/restapi/v1.0/account/~/extension/~/voicemail", "ReadMessages"),
        ("/restapi/v1.0/account/~/extension/~/fax?direction=Inbound", "ReadMessages"),
        ("/restapi/v1.0/account/~/extension/~/presence/dnd", "ReadAccounts"),
        ("/restapi/v1.0/account/~/presence?detailedTelephonyState=true", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension/~/presence", "ReadPresence"),
        ("/restapi/v1.0/account/~/extension/~/presence/line", "ReadPresence"),
        ("/restapi/v1.0/account/~/telephony/sessions", "CallControl"),
        ("/restapi/v1.0/account/~/extension/~/telephony/sessions?statusCode=Setup", "CallControl"),
        ("/restapi/v1.0/account/~/extension/~/favorite", "ReadContacts"),
        ("/restapi/v1.0/account/~/a2p-sms/messages", "ReadAccounts"),
        ("/restapi/v1.0/account/~/directory/entries", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension/~/grant", "ReadAccounts"),
        ("/restapi/v1.0/account/~/device/7", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension/~/phone-number", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension/~", "ReadAccounts"),
        ("/restapi/v1.0/account/~/extension/", "ReadAccounts"),
    ],
)
def test_each_family_of_filters_needs_the_permission_of_its_page(event_filter, permission):
    assert permission_for(event_filter) == permission


@pytest.mark.parametrize(
    "event_filter",
    [
        "",
        "/",
        "/restapi/v1.0/subscription/~?threshold=60&interval=15",
        "/news?of=/glip/posts",
        "/restapi/v1.0/account/~/extensionX",
        "/x/extension/~/new",
    ],
)
def test_a_filter_that_no_page_tells_of_needs_none(event_filter):
    assert permission_for(event_filter) == ""
    assert missing_in("ReadAccounts", event_filter) == ""


@pytest.mark.parametrize(
    ("scope", "missing"),
    [
        ("ReadAccounts", "TeamMessaging"),
        ("ReadAccounts  CallControl\nWebSocket", "TeamMessaging"),
        ("ReadAccounts TeamMessaging", ""),
        ("TeamMessaging", ""),
        ("", ""),
        ("WebSocket", ""),
        ("NotTeamMessaging", ""),
    ],
)
def test_a_permission_is_missing_where_the_scope_names_others_of_its_kind(scope, missing):
    assert missing_in(scope, POSTS) == missing
