"""One stable name for each kind of event, from its body first and its URI second; `other`, never an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.event_types import BY_EVENT_TYPE, BY_KEY, BY_URI, OTHER, REMINDER, type_from

E = "/restapi/v1.0/account/~/extension/62534323"
A = "/restapi/v1.0/account/~"

BY_ITS_URI = {
    "/restapi/v1.0/subscription/4f762cab?threshold=60&interval=15": REMINDER,
    "/restapi/v1.0/subscription/~": REMINDER,
    A + "/telephony/sessions": "telephony.session",
    E + "/telephony/sessions?direction=Inbound": "telephony.session",
    A + "/telephony/sessions/s-1": "telephony.session",
    E + "/presence/line": "presence.line.changed",
    E + "/presence/line/presence": "presence.line.changed",
    E + "/favorite/presence": "presence.line.changed",
    E + "/presence/dnd": "dnd.changed",
    A + "/call-queues/12/presence": "presence.queue.changed",
    E + "/presence?detailedTelephonyState=true&sipData=true": "presence.changed",
    A + "/presence": "presence.changed",
    E + "/message-store/instant?type=SMS": "sms.received",
    E + "/message-store?type=Fax": "message-store.changed",
    E + "/voicemail": "voicemail.received",
    E + "/fax?direction=Inbound": "fax.received",
    E + "/favorite": "favorite.changed",
    E + "/grant": "grant.changed",
    A + "/device/12/emergency-address": "emergency-address.changed",
    A + "/directory/entries": "directory.changed",
    A + "/a2p-sms/opt-outs": "sms.opt-out.changed",
    "/restapi/v2/accounts/~/sms/consents": "sms.opt-out.changed",
    A + "/a2p-sms/batches": "sms.batch.changed",
    A + "/a2p-sms/batches/5642276556": "sms.batch.changed",
    "/restapi/v2/accounts/~/extensions/~/sms/batches?from=1": "sms.batch.changed",
    A + "/message-threads/sync": "message-thread.changed",
    A + "/message-threads/entries/sync": "message-thread.changed",
    A + "/phone-number?usageType=ContactCenterNumber": "phone-number.changed",
    "/ai/ringsense/v1/public/accounts/~/domains/pbx/insights": "insights.added",
    E: "extension.updated",
    E + "/": "extension.updated",
    A + "/extension": "extension.updated",
    "/team-messaging/v1/posts": OTHER,
    "/restapi/v1.0/account/~/presence-like": OTHER,
    "": OTHER,
    "?": OTHER,
}

# The strategy for what json.loads can return.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("event_type", "name"), BY_EVENT_TYPE.items())
def test_the_event_type_decides_whatever_the_uri_says(event_type, name):
    assert type_from("/restapi/v1.0/glip/posts", {"eventType": event_type, "id": "1"}) == name
    assert type_from("", {"eventType": event_type, "changes": []}) == name


def test_the_event_type_of_the_generic_example_stands_in_data():
    assert type_from("/restapi/v1.0/account/1/extension/1/glip/groups", {"data": {"eventType": "GroupAdded"}}) == (
        "group.added"
    )


@pytest.mark.parametrize("data", [None, "GroupAdded", [], {}, {"eventType": None}, {"eventType": []}])
def test_data_without_an_event_type_says_nothing(data):
    assert type_from("/x", {"data": data}) == OTHER


@pytest.mark.parametrize("event_type", ["Update", "Create", "Delete", "", 5, ["PostAdded"], {"PostAdded": 1}])
def test_an_event_type_that_is_not_of_team_messaging_leaves_it_to_the_uri(event_type):
    assert type_from(E, {"extensionId": "62534323", "eventType": event_type}) == "extension.updated"


@pytest.mark.parametrize(("key", "name"), BY_KEY)
def test_a_key_that_only_one_family_has_decides_whatever_the_uri_says(key, name):
    assert type_from("/somewhere/new", {key: None}) == name


def test_where_two_keys_speak_the_narrower_family_wins():
    assert type_from(A + "/presence", {"dndStatus": "TakeAllCalls", "presenceStatus": "Busy"}) == "presence.changed"
    assert type_from("/x", {"presenceStatus": "Busy", "telephonySessionId": "s-1"}) == "telephony.session"


def test_monitored_lines_are_known_by_a_list_of_extensions_with_a_sequence():
    assert type_from("/x", {"extension": [{"id": "3"}], "sequence": 2698}) == "presence.line.changed"
    assert type_from("/x", {"extension": [{"id": "3"}]}) == OTHER
    assert type_from("/x", {"extension": {"id": "3"}, "sequence": 2698}) == OTHER


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"type": "SMS", "direction": "Inbound"}, "sms.received"),
        ({"type": "SMS", "direction": "Outbound"}, "sms.sent"),
        ({"type": "SMS"}, "sms.received"),
        ({"type": "Fax", "direction": "Inbound"}, "fax.received"),
        ({"type": "Pager"}, "pager.received"),
        ({"type": "VoiceMail"}, "voicemail.received"),
        ({"type": "Voicemail"}, "voicemail.received"),
        ({"segmentCount": 1, "direction": "Outbound"}, "sms.sent"),
        ({"segmentCount": 1, "direction": None}, "sms.received"),
        ({"type": "Team"}, OTHER),
        ({"type": ["SMS"]}, OTHER),
    ],
)
def test_a_whole_message_is_named_by_its_type_and_direction(body, name):
    assert type_from("/x", body) == name


@pytest.mark.parametrize(("event", "name"), BY_ITS_URI.items())
def test_where_the_body_says_nothing_the_uri_names_the_family(event, name):
    assert type_from(event, None) == name
    assert type_from(event, {"uri": "said nothing"}) == name


def test_no_pattern_of_the_table_is_dead():
    """An earlier pattern that takes all that a later one was written for would silence it."""
    paths = [event.partition("?")[0].rstrip("/") for event in BY_ITS_URI]
    firsts = [[i for i, (pattern, _) in enumerate(BY_URI) if pattern.search(path)][:1] for path in paths]
    assert {index for first in firsts for index in first} == set(range(len(BY_URI)))


@given(st.text() | st.sampled_from([E, A + "/presence", "/restapi/v1.0/subscription/~"]), JSON)
def test_a_type_is_always_a_dotted_name_or_other(event, body):
    name = type_from(event, body)
    assert name == OTHER or all(part.replace("-", "").isalpha() for part in name.split("."))


@given(st.text(), st.sampled_from(sorted(BY_EVENT_TYPE)), st.dictionaries(st.text(), JSON))
def test_no_uri_and_no_other_key_outvotes_a_known_event_type(event, event_type, rest):
    assert type_from(event, rest | {"eventType": event_type}) == BY_EVENT_TYPE[event_type]
