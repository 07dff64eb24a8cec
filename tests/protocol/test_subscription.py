"""What RingCentral says of a subscription."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import SAMPLES

from rc_push.errors import ProtocolError, RestError
from rc_push.protocol.subscription import (
    LIFE_MAX_S,
    OTHER_FILTERS,
    DeliveryMode,
    DisabledFilter,
    SubscriptionInfo,
    are_same_filters,
    creation_body,
    filters_of,
    info_from,
    is_all_refused,
    is_changed,
    is_gone,
    is_held,
    missing_from,
    records_in,
    refused_from,
)

POSTS = "/team-messaging/v1/posts"
PRESENCE = "/restapi/v1.0/account/~/extension/~/presence"
OWNER = "2021383004"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
info_like = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.just([]) | st.just({})
        for name in ("id", "eventFilters", "disabledFilters", "status", "expiresIn", "deliveryMode")
    },
)


def sample(name: str) -> bytes:
    path = SAMPLES / f"{name}.json"
    if not path.is_file():
        pytest.skip("the published answers are not here")
    said = json.loads(path.read_text("utf-8"))
    return json.dumps(said.get("response", said)).encode()


# ---------------------------------------------------------------------------------------------------------- answers


def test_a_pubnub_answer_says_where_the_channel_is_and_how_it_is_encrypted():
    info = info_from(sample("rest-2021-subscription-create-PubNub"))
    mode = info.delivery_mode
    assert (info.id, info.status, info.expires_in) == ("ed329ec1-0600-4560-b6dc-c764399e9a54", "Active", 899)
    assert (mode.transport_type, mode.address) == ("PubNub", "54770517599294_6dda849e")
    assert mode.subscriber_key == "sub-c-b8b9cd8c-e906-11e2-b383-02ee2ddab7fe"
    assert (mode.encryption, mode.encryption_key) == (True, "0mWk/6SMiSz191u2dV5drg==")
    assert refused_from(info) == ""


@pytest.mark.parametrize(
    "name",
    [
        "rest-docs2013-subscription-create-PubNub",
        "rest-spec2025-CreateSubscriptionResponsePubnub",
        "rest-spec2025-CreateSubscriptionResponseWebhook",
        "rest-2021-subscription-create-WebHook",
        "rest-2021-subscription-create-RC-APNS",
    ],
)
def test_every_published_answer_can_be_read(name):
    assert info_from(sample(name)).id


def test_a_published_answer_says_which_filter_is_not_served():
    info = info_from(sample("rest-2021-subscription-get-PubNub-disabledFilters"))
    assert refused_from(info) == (
        "event filters refused: /restapi/v1.0/account/1460156004/extension/1460172004/presence/line (SUB-412)"
    )


@pytest.mark.parametrize(
    ("asked", "event_filters", "refused", "is_all"),
    [
        ([POSTS], [POSTS], [], False),
        ([POSTS, PRESENCE], [POSTS], [PRESENCE], False),
        ([PRESENCE], [], [PRESENCE], True),
        ([POSTS, PRESENCE], [], [PRESENCE], False),  # it does not say what it serves
        ([POSTS], [], [], False),
        ([], [], [], False),
    ],
)
def test_all_is_refused_where_each_that_was_asked_for_is(asked, event_filters, refused, is_all):
    disabled = [DisabledFilter(each, "SUB-412") for each in refused]
    info = SubscriptionInfo("x", event_filters=event_filters, disabled_filters=disabled)
    assert is_all_refused(info, asked) is is_all


def test_an_answer_needs_nothing_but_an_id():
    assert info_from(b'{"id":"x"}') == SubscriptionInfo("x")
    assert info_from(b'{"id":"x"}').expires_in is None


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("899.5", 899.5),
        ("0", 0.0),
        ("-1", 0.0),
        ("-1e306", 0.0),
        ("630720000", LIFE_MAX_S),
        ("630720001", LIFE_MAX_S),
        ("1e12", LIFE_MAX_S),
        ("1e306", LIFE_MAX_S),
    ],
)
def test_a_life_is_none_that_ringcentral_does_not_give(told, taken):
    assert info_from(b'{"id":"x","expiresIn":%b}' % told.encode()).expires_in == taken


def test_what_is_not_known_is_passed_over():
    assert (
        info_from(b'{"id":"x","news":{"a":[1]},"deliveryMode":{"news":1,"address":"a"}}').delivery_mode.address == "a"
    )


@pytest.mark.parametrize("encryption", [True, False, "true", "false"])
def test_encryption_can_be_said_as_text(encryption):
    body = json.dumps({"id": "x", "deliveryMode": {"encryption": encryption}}).encode()
    assert info_from(body).delivery_mode.encryption == encryption


def test_ids_and_codes_come_as_numbers_too():
    info = info_from(b'{"id":7,"creationTime":1700000000000,"disabledFilters":[{"filter":"/x","reason":412}]}')
    assert (info.id, info.creation_time) == ("7", "1700000000000")
    assert refused_from(info) == "event filters refused: /x (412)"


def test_what_nobody_needs_keeps_no_answer_from_being_read():
    body = b'{"id":"x","eventFilters":"/x","disabledFilters":["/x"],"status":{},"deliveryMode":"WebSocket"}'
    assert info_from(body) == SubscriptionInfo("x")


def test_an_id_can_be_stored_whatever_it_holds():
    assert info_from(b'{"id":"\\ud800"}').id.encode() == b"\\ud800"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b"{}", b'{"id":[7]}', b'{"id":"x"', b'{"id":"\xff"}'])
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(ProtocolError, match=r"^subscription answer: (?!None)."):
        info_from(body)


def test_an_empty_id_is_none():
    with pytest.raises(ProtocolError, match=r"^subscription answer without an id$"):
        info_from(b'{"id":""}')


@given(st.binary() | info_like.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_nothing_but_their_own_error(body):
    with contextlib.suppress(ProtocolError):
        assert info_from(body).id


def test_an_answer_nested_too_deeply_is_refused():
    with pytest.raises(ProtocolError):
        info_from(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_the_key_is_not_shown():
    mode = DeliveryMode("PubNub", "1_a", "sub-c-x", encryption_key="0mWk/6SMiSz191u2dV5drg==")
    assert repr(mode) == "DeliveryMode('PubNub', '1_a')"
    assert "0mWk" not in repr(SubscriptionInfo("x", delivery_mode=mode))


def test_a_subscription_is_asked_for_with_its_filters_and_its_transport():
    assert json.loads(creation_body((POSTS,), "WebSocket")) == {
        "eventFilters": [POSTS],
        "deliveryMode": {"transportType": "WebSocket"},
    }


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", ["", "Active"])
def test_an_active_subscription_has_nothing_refused(status):
    assert refused_from(SubscriptionInfo("x", status=status)) == ""


@pytest.mark.parametrize("status", ["Blacklisted", "Suspended", "Something new"])
def test_any_other_status_is_told(status):
    assert refused_from(SubscriptionInfo("x", status=status)).endswith(status)


def test_all_refused_filters_are_told_in_a_line_that_ends():
    disabled = [DisabledFilter(f"/filter/{number}", "SUB-412") for number in range(100)]
    said = refused_from(SubscriptionInfo("x", disabled_filters=disabled, status="Blacklisted"))
    assert said.startswith("event filters refused: /filter/0 (SUB-412), /filter/1 (SUB-412)")
    assert len(said) == 500
    cut = refused_from(SubscriptionInfo("x", status="S" * 1000))
    assert cut == "RingCentral reports the status " + "S" * 40


@pytest.mark.parametrize(
    ("status", "code", "gone"),
    [
        (404, "CMN-102", True),
        (404, "SUB-507", True),
        (400, "SUB-507", True),
        (404, "", True),
        (404, "CMN-120", False),
        (400, "CMN-102", False),
        (403, "SUB-505", False),
        (429, "CMN-301", False),
        (500, "", False),
    ],
)
def test_a_subscription_is_gone_where_the_answer_says_so(status, code, gone):
    assert is_gone(RestError(status, code)) is gone


@pytest.mark.parametrize(
    ("message", "gone"), [("Parameter [subscriptionId] value is invalid", True), ("Parameter [x] is invalid", False)]
)
def test_an_invalid_parameter_means_that_it_is_gone_where_that_is_its_id(message, gone):
    assert is_gone(RestError(400, "CMN-102", message)) is gone


# ---------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([POSTS], [POSTS]),
        ([POSTS, PRESENCE], [PRESENCE, POSTS]),
        ([POSTS], [POSTS, POSTS]),
        ([POSTS], [POSTS + "/"]),
        ([PRESENCE], [f"/restapi/v1.0/account/2021383004/extension/{OWNER}/presence"]),
        ([PRESENCE], [f"/restapi/v1.0/account/~/extension/{OWNER}/presence"]),
        ([f"/restapi/v1.0/account/~/extension/{OWNER}/presence"], [PRESENCE]),
        ([PRESENCE + "?a=1&b=2"], [PRESENCE + "?b=2&a=1"]),
        (
            ["/restapi/v2/accounts/~/extensions/~/sms/messages"],
            [f"/restapi/v2/accounts/7/extensions/{OWNER}/sms/messages"],
        ),
        (["/restapi/v1.0/account/~/extension/5"], ["/restapi/v1.0/account/7/extension/5"]),
        (["account/~/presence"], ["account/7/presence"]),
        ([], []),
    ],
)
def test_filters_that_mean_the_same_are_the_same(ours, theirs):
    assert are_same_filters(ours, theirs, OWNER)
    assert are_same_filters(theirs, ours, OWNER)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([POSTS], []),
        ([POSTS], [POSTS, PRESENCE]),
        ([POSTS], ["/team-messaging/v1/chats"]),
        ([PRESENCE], ["/restapi/v1.0/account/~/extension/5/presence"]),
        ([PRESENCE], [PRESENCE + "/line"]),
        ([PRESENCE], [PRESENCE + "?detailedTelephonyState=true"]),
        ([PRESENCE + "?sipData=true"], [PRESENCE + "?sipData=false"]),
        ([PRESENCE + "?sipData="], [PRESENCE]),
        (["/restapi/v1.0/account/~/presence"], [PRESENCE]),
        ([POSTS + "/X"], [POSTS]),
        (["7/account"], ["8/account"]),
        (["/restapi/v1.0/account/~/extension"], ["/restapi/v1.0/account/~/extension/~"]),
    ],
)
def test_filters_that_mean_something_else_are_not_the_same(ours, theirs):
    assert not are_same_filters(ours, theirs, OWNER)
    assert not are_same_filters(theirs, ours, OWNER)


def test_without_our_own_id_only_the_tilde_is_the_tilde():
    theirs = [f"/restapi/v1.0/account/2021383004/extension/{OWNER}/presence"]
    assert not are_same_filters([PRESENCE], theirs, "")
    assert are_same_filters(theirs, theirs, "")
    assert are_same_filters([PRESENCE], ["/restapi/v1.0/account/1/extension/~/presence"], "")


@given(st.lists(st.text()), st.text())
def test_any_filters_are_the_same_as_themselves(event_filters, owner_id):
    assert are_same_filters(event_filters, list(reversed(event_filters)), owner_id)


def held(ours, *theirs):
    return is_held(ours, SubscriptionInfo("x", event_filters=list(theirs)))


MINE = f"/restapi/v1.0/account/2021383004/extension/{OWNER}"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([POSTS], [POSTS]),
        ([POSTS, PRESENCE], [PRESENCE, POSTS]),
        ([PRESENCE], [f"{MINE}/presence"]),
        ([f"{MINE}/presence"], [PRESENCE]),
        ([PRESENCE, f"{MINE}/voicemail"], [f"{MINE}/presence", "/restapi/v1.0/account/~/extension/~/voicemail"]),
        (["/restapi/v2/accounts/~/extensions/~/sms"], ["/restapi/v2/accounts/7/extensions/8/sms"]),
        ([PRESENCE + "?a=1&b=2"], [f"{MINE}/presence?b=2&a=1"]),
        ([], []),
    ],
)
def test_filters_are_held_where_our_id_and_the_tilde_stand_for_each_other(ours, theirs):
    assert held(ours, *theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([POSTS, PRESENCE], [POSTS]),
        ([POSTS], [POSTS, PRESENCE]),
        ([POSTS], [PRESENCE]),
        ([PRESENCE], [f"{MINE}/presence/line"]),
        ([PRESENCE], [f"{MINE}/presence?detailedTelephonyState=true"]),
        ([f"{MINE}/presence"], ["/restapi/v1.0/account/~/extension/5/presence"]),
        (["/restapi/v1.0/account/~/queue/~/presence"], ["/restapi/v1.0/account/~/queue/5/presence"]),
        ([PRESENCE, POSTS], [f"{MINE}/presence", "/restapi/v1.0/account/~/extension/5/presence"]),
        ([PRESENCE, PRESENCE + "/line"], [f"{MINE}/presence", f"{MINE}/voicemail"]),
        (["~/extension/x"], ["y/extension/x"]),
    ],
)
def test_filters_that_are_missing_or_new_or_other_are_not_held(ours, theirs):
    assert not held(ours, *theirs)


def test_each_of_their_filters_stands_for_one_of_ours_only():
    ours = [f"{MINE}/presence", "/restapi/v1.0/account/~/extension/5/presence"]
    assert not held(ours, PRESENCE)
    assert not held([PRESENCE], *ours)


def test_a_filter_that_is_refused_is_held_and_an_answer_that_names_none_says_nothing():
    refused = SubscriptionInfo("x", event_filters=[POSTS], disabled_filters=[DisabledFilter(PRESENCE, "SUB-412")])
    assert filters_of(refused) == [POSTS, PRESENCE]
    assert is_held([PRESENCE, POSTS], refused)
    assert not is_held([POSTS], refused)
    assert is_held([POSTS], SubscriptionInfo("x"))


# ------------------------------------------------------------------------------------------------------------ lists


def test_what_an_answer_lists_is_given_as_it_is():
    assert records_in({"records": [{"id": "x"}, 7], "paging": {}}) == [{"id": "x"}, 7]


@pytest.mark.parametrize("answer", [None, [], "records", 7, {}, {"records": None}, {"records": {"id": "x"}}])
def test_what_is_no_list_lists_nothing(answer):
    assert records_in(answer) == []


def test_event_filters_have_changed_where_others_are_held_than_it_once_told():
    info = SubscriptionInfo("1", event_filters=[POSTS])
    assert not is_changed([POSTS], info)
    assert is_changed([PRESENCE], info)
    assert is_changed([], info)
    assert not is_changed(None, info), "it has not told any"


def test_what_is_missing_of_what_was_asked_for_is_told_and_a_refusal_before_all():
    refused = DisabledFilter(PRESENCE, "SUB-412")
    assert missing_from(SubscriptionInfo("1", event_filters=[POSTS]), [POSTS]) == ""
    assert missing_from(SubscriptionInfo("1", event_filters=[POSTS]), [PRESENCE]) == OTHER_FILTERS
    assert "SUB-412" in missing_from(
        SubscriptionInfo("1", event_filters=[POSTS], disabled_filters=[refused]), ["/other"]
    )
