"""A request to a receiver: RingCentral's, byte for byte, and nothing of an event's text in a header."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.config import Secret
from rc_push.envelope import Envelope, Source
from rc_push.handlers.webhook_request import Form, message_id, request_from, validation_headers

SOURCE = Source("main", "team", "websocket")
PAYLOAD = b'{"uuid":"u-1", "event":"/x","body":{"text":"gr\xc3\xbc\xc3\x9f","n":1e999}}'
ENVELOPE = Envelope("u-1", "post.added", PAYLOAD, SOURCE, 0, 7)
NOW_S = 1_800_000_000.0
TOKEN = Secret("PLANTED")
RINGCENTRALS = {
    "Accept": "application/json",
    "Accept-Encoding": "UTF-8",
    "Content-Type": "application/json; charset=UTF-8",
    "User-Agent": "RingCentral-Webhook/8.3",
}


def test_a_request_has_ringcentrals_headers_and_the_payload_as_it_came():
    assert request_from(ENVELOPE, Form(), NOW_S) == (RINGCENTRALS, PAYLOAD)


def test_with_meta_the_body_is_the_line_that_users_see():
    assert request_from(ENVELOPE, Form(has_meta=True), NOW_S)[1] == ENVELOPE.to_json()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("Verification-Token", {"Verification-Token"}),
        ("Validation-Token", {"Validation-Token"}),
        ("both", {"Verification-Token", "Validation-Token"}),
    ],
)
@pytest.mark.parametrize("form", [{}, {"format": "cloudevents"}, {"format": "cloudevents", "mode": "binary"}])
def test_a_verification_token_is_in_the_header_that_the_user_chose(header, names, form):
    headers, _ = request_from(ENVELOPE, Form(verification_token=TOKEN, verification_header=header, **form), NOW_S)
    assert {name for name, value in headers.items() if value == "PLANTED"} == names


@pytest.mark.parametrize("header", ["Verification-Token", "Validation-Token", "both"])
def test_a_validation_request_keeps_both_tokens_apart(header):
    form = Form(verification_token=TOKEN, verification_header=header)
    expected = {**RINGCENTRALS, "Validation-Token": "t-1", "Verification-Token": "PLANTED"}
    assert validation_headers("t-1", form) == expected
    assert validation_headers("t-1", Form()) == {**RINGCENTRALS, "Validation-Token": "t-1"}


def test_a_structured_cloudevent_is_one_json_object():
    headers, body = request_from(ENVELOPE, Form(format="cloudevents"), NOW_S)
    assert headers["Content-Type"] == "application/cloudevents+json; charset=UTF-8"
    assert json.loads(body)["id"] == "u-1"
    assert "rcpushposition" not in json.loads(body)
    assert json.loads(request_from(ENVELOPE, Form(format="cloudevents", has_meta=True), NOW_S)[1])["rcpushposition"]


def test_a_binary_cloudevent_has_its_attributes_as_headers():
    headers, body = request_from(ENVELOPE, Form(format="cloudevents", mode="binary"), NOW_S)
    assert headers["ce-id"] == "u-1"
    assert headers["User-Agent"] == RINGCENTRALS["User-Agent"]
    assert {name: value for name, value in headers.items() if name.lower() == "content-type"} == {
        "content-type": "application/json"
    }
    assert body == b'{"text":"gr\xc3\xbc\xc3\x9f","n":1e999}'


@pytest.mark.parametrize("form", [{}, {"has_meta": True}, {"format": "cloudevents"}])
def test_the_signature_is_over_what_is_sent_and_changes_with_the_time_of_the_attempt(form):
    key = bytes(32)
    first, body = request_from(ENVELOPE, Form(signing_key=key, **form), NOW_S)
    again, same = request_from(ENVELOPE, Form(signing_key=key, **form), NOW_S + 60)
    assert (first["webhook-id"], first["webhook-timestamp"]) == ("u-1", "1800000000")
    assert (again["webhook-id"], again["webhook-timestamp"]) == ("u-1", "1800000060")
    assert body == same
    assert first["webhook-signature"] != again["webhook-signature"]


@pytest.mark.parametrize("uuid", ["a.b", "a b", "a\r\nX: y", "ü", "x" * 10 + "\x7f"])
def test_an_odd_uuid_is_named_by_its_hash(uuid):
    odd = Envelope(uuid, "other", b"{}", SOURCE, 0)
    assert message_id(odd) == hashlib.sha256(uuid.encode()).hexdigest()


FORMS = [
    Form(signing_key=bytes(32)),
    Form(format="cloudevents", signing_key=bytes(32), has_meta=True),
    Form(format="cloudevents", mode="binary", signing_key=bytes(32), has_meta=True),
]


@given(uuid=st.text(min_size=1).filter(str.isprintable), text=st.text(max_size=20), form=st.sampled_from(FORMS))
def test_no_text_of_an_event_begins_a_header_of_its_own(uuid, text, form):
    fields = {"uuid": uuid, "event": text, "timestamp": text, "subscriptionId": text, "ownerId": text, "body": text}
    headers, _ = request_from(Envelope(uuid, "other", json.dumps(fields).encode(), SOURCE, 0), form, NOW_S)
    for name, value in headers.items():
        assert re.fullmatch(r"[A-Za-z-]+", name), name
        assert re.fullmatch(r"[\x20-\x7e]*", value), value


def test_a_form_does_not_show_its_secrets():
    assert "PLANTED" not in repr(Form(verification_token=TOKEN, signing_key=b"PLANTED"))
