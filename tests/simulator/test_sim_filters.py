"""Which event filters are taken, and which events match them."""

from __future__ import annotations

import pytest

from rc_push.simulator import filters
from rc_push.simulator.answers import Refused
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.people import User

USER = User("11", "22")
A = "/restapi/v1.0/account/~"
E = f"{A}/extension/~"
REMINDER = "/restapi/v1.0/subscription/~?threshold=60&interval=15"


def code(*event_filters, **knobs):
    try:
        filters.check(list(event_filters), USER, Knobs(**knobs))
    except Refused as refused:
        return refused.answer.status, refused.answer.body["errorCode"]
    return None


def matches(event_filter, event):
    return filters.matches(filters.expanded(event_filter, USER), filters.expanded(event, USER))


@pytest.mark.parametrize(
    "event_filter",
    [
        "/team-messaging/v1/posts",
        "/team-messaging/v1/chats",
        "/team-messaging/v1/groups",
        "/restapi/v1.0/glip/posts",
        f"{E}/message-store",
        f"{E}/message-store/instant?type=SMS",
        f"{E}/presence?detailedTelephonyState=true&sipData=true",
        f"{E}/presence/line/presence",
        f"{A}/telephony/sessions?statusCode=Answered",
        "/restapi/v1.0/account/11/extension/99/presence",
        E,
        f"{A}/extension",
        f"{A}/call-queues/7/presence",
        f"{A}/a2p-sms/batches/5642",
        "/restapi/v2/accounts/~/extensions/~/sms/messages?direction=Inbound",
        "/ai/ringsense/v1/public/accounts/~/domains/pbx/insights",
        f"{E}/favorite/",
    ],
)
def test_a_documented_family_is_taken(event_filter):
    assert code(event_filter) is None


@pytest.mark.parametrize("event_filter", ["/nonsense", "", "team-messaging/v1/posts", f"{E}/nonsense", f"x{E}/fax"])
def test_an_unknown_one_is_refused_even_among_others(event_filter):
    assert code("/team-messaging/v1/posts", event_filter) == (400, "SUB-508")


def test_the_refusal_names_what_is_wrong():
    with pytest.raises(Refused) as caught:
        filters.check(["/a", "/team-messaging/v1/posts", "/b"], USER, Knobs())
    assert caught.value.answer.body["message"] == "Invalid event filters: [/a, /b]"


def test_another_account_is_refused():
    assert code("/restapi/v1.0/account/12/presence") == (403, "SUB-406")


def test_the_number_of_filters_can_be_limited():
    assert code(E, A + "/presence", max_event_filters=1) == (400, "SUB-508")
    assert code(E, max_event_filters=1) is None


@pytest.mark.parametrize(("knob", "refused"), [("chats", "groups"), ("groups", "chats")])
def test_only_one_spelling_of_chats_can_be_served(knob, refused):
    assert code(f"/team-messaging/v1/{knob}", groups_filter=knob) is None
    assert code(f"/team-messaging/v1/{refused}", groups_filter=knob) == (400, "SUB-508")


def test_a_reminder_needs_company():
    assert code(REMINDER) == (400, "SUB-515")
    assert code(REMINDER, E) is None


@pytest.mark.parametrize(
    "query", ["", "?threshold=60", "?threshold=60&interval=31", "?threshold=x&interval=1", "?threshold=9&interval=0"]
)
def test_a_reminder_needs_numbers_that_fit(query):
    assert code("/restapi/v1.0/subscription/~" + query, E) == (400, "SUB-516")


def test_tildes_become_ids_in_both_generations_of_uris():
    assert filters.expanded(f"{E}/fax", USER) == "/restapi/v1.0/account/11/extension/22/fax"
    v2 = "/restapi/v2/accounts/~/extensions/~/sms/messages"
    assert filters.expanded(v2, USER) == "/restapi/v2/accounts/11/extensions/22/sms/messages"
    assert filters.expanded(REMINDER, USER) == REMINDER


@pytest.mark.parametrize(
    ("event_filter", "event", "expected"),
    [
        (f"{E}/fax", f"{E}/fax", True),
        (f"{E}/fax", "/restapi/v1.0/account/11/extension/22/fax", True),
        (f"{E}/fax", f"{E}/voicemail", False),
        (f"{E}/fax", f"{E}/fax?direction=Inbound", True),
        (f"{E}/fax?direction=Inbound", f"{E}/fax", True),
        (f"{E}/fax?direction=Inbound", f"{E}/fax?direction=Outbound", False),
        (f"{E}/message-store", f"{E}/message-store/instant", False),
        (f"{E}/presence", "/restapi/v1.0/account/11/extension/99/presence", False),
        (f"{A}/presence", "/restapi/v1.0/account/11/extension/99/presence", True),
        (f"{A}/telephony/sessions", f"{E}/telephony/sessions", True),
        (f"{A}/presence", f"{E}/presence/line", False),
        ("/team-messaging/v1/groups", "/team-messaging/v1/chats", True),
        ("/restapi/v1.0/glip/posts", "/team-messaging/v1/posts", True),
        ("/team-messaging/v1/posts", "/team-messaging/v1/chats", False),
    ],
)
def test_an_event_matches_by_meaning_not_by_spelling(event_filter, event, expected):
    assert matches(event_filter, event) is expected
