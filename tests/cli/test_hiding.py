"""How is an event shown to somebody who must not know whom it is about?"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rc_push.cli.hiding import Hiding
from rc_push.cli.show import event_lines, json_line
from rc_push.envelope import Envelope, Source
from rc_push.simulator.samples import SAMPLES, sample

SOURCE = Source("main", "team", "websocket")
# Long and strange enough to be found again; none of them is a word of RingCentral's.
PRIVATE = st.one_of(
    st.from_regex(r"\+?1[2-9]\d{9}", fullmatch=True),
    st.from_regex(r"\(\d{3}\) \d{3}-\d{4}", fullmatch=True),
    st.from_regex(r"[A-Z][a-z]{5,9} [A-Z][a-z]{5,9}", fullmatch=True),
    st.text(min_size=6, max_size=60).map(lambda text: f"{text} ünd"),
)
KEYS = st.sampled_from(
    ["phoneNumber", "name", "text", "subject", "callerId", "extensionNumber", "location", "from", "title", "new"]
)
BODIES = st.recursive(
    st.dictionaries(KEYS, PRIVATE, max_size=4),
    lambda inner: st.dictionaries(KEYS, st.one_of(inner, st.lists(inner, max_size=3)), max_size=4),
    max_leaves=10,
)


def envelope(body, event="/team-messaging/v1/posts"):
    payload = json.dumps({"uuid": "u-1", "event": event, "ownerId": "4010002004", "body": body}).encode()
    return Envelope("u-1", "post.added", payload, SOURCE, 1000, 7)


def hidden(body, **more):
    return Hiding(b"key").envelope(envelope(body, **more))


def leaves(value):
    if isinstance(value, dict):
        yield from (leaf for inner in value.values() for leaf in leaves(inner))
    elif isinstance(value, list):
        yield from (leaf for inner in value for leaf in leaves(inner))
    else:
        yield value


@settings(suppress_health_check=[HealthCheck.too_slow])  # what bodies are made of, on a busy machine
@given(BODIES)
def test_nothing_private_is_shown_wherever_it_stands(body):
    shown = hidden(body)
    text = json_line(shown) + "".join(event_lines(shown))
    for private in leaves(body):
        assert private not in text
        assert json.dumps(private)[1:-1] not in text


@given(PRIVATE, PRIVATE)
def test_what_is_the_same_looks_the_same_and_what_is_not_does_not(one, other):
    body = hidden({"a": {"name": one}, "b": [{"name": one}], "c": {"name": other}}).body
    assert body["a"] == body["b"][0]
    is_same = one == other or (
        re.fullmatch(r"[+\d() -]+", one + other, re.ASCII) and re.sub(r"\D", "", one) == re.sub(r"\D", "", other)
    )
    assert (body["a"] == body["c"]) == bool(is_same)


def test_a_number_is_the_same_however_it_is_written():
    body = hidden({"from": {"phoneNumber": "+1 (202) 555-0143"}, "to": [{"phoneNumber": "+12025550143"}]}).body
    assert body["from"] == body["to"][0]
    assert body["from"]["phoneNumber"].startswith("number-")


def test_in_another_output_it_is_another_word():
    one, other = Hiding(), Hiding()
    assert one.value("name", "Anna Field") != other.value("name", "Anna Field")
    assert one.value("name", "Anna Field") == one.value("name", "Anna Field")


@pytest.mark.parametrize("type_", SAMPLES)
def test_of_real_events_ids_types_and_times_are_kept(type_):
    event, body = sample(type_, 3)
    shown = hidden(body, event=event)
    assert shown.event == event
    assert shown.fields["ownerId"] == "4010002004"
    text = json.dumps(shown.body)
    for key in ("eventType", "groupId", "creatorId", "telephonySessionId", "extensionId", "creationTime"):
        if isinstance(body, dict) and key in body:
            assert json.dumps(body[key]) in text
    assert not re.search(r"\+1\d{10}", text)


@pytest.mark.parametrize(
    ("key", "value", "is_shown"),
    [
        ("id", "123456789", True),
        ("extensionIds", "123456789", True),
        ("callerId", "12025550143", False),
        ("phoneNumberId", "12025550143", False),
        ("extensionNumber", "101", False),
        ("paid", "Anna", False),
        ("status", "Answered", True),
        ("status", "call me at +12025550143", False),
        ("creationTime", "2026-11-23T10:00:00.190Z", True),
        ("unknown", "2026-11-23T10:00:00.190Z", True),
        ("unknown", 12025550143, False),
        ("unknown", 12, True),
        ("unknown", 12.5, False),
        ("unknown", None, True),
        ("muted", False, True),
        ("text", "", True),
    ],
)
def test_only_what_is_known_to_be_harmless_is_shown(key, value, is_shown):
    assert (Hiding().value(key, value) == value) is is_shown


def test_numbers_in_uris_are_hidden_and_ids_are_not():
    shown = Hiding(b"key").value(
        "event", "/restapi/v1.0/account/~/extension/4010002004/sms?phoneNumber=%2B12025550143&type=SMS"
    )
    assert shown.startswith("/restapi/v1.0/account/~/extension/4010002004/sms?phoneNumber=")
    assert "2025550143" not in shown
    assert shown.endswith("&type=SMS")
    assert "2025550143" not in Hiding().value("event", "/restapi/v1.0/phone-number/12025550143")


def test_a_key_that_is_no_word_is_hidden():
    (key,) = hidden({"+12025550143": 1}).body
    assert key.startswith("key-")


def test_what_is_too_deep_to_be_looked_through_is_hidden_as_a_whole():
    payload = b'{"uuid":"u-1","event":"/x","body":' + b'{"a":' * 900 + b'"Anna Field"' + b"}" * 900 + b"}"
    shown = Hiding().envelope(Envelope("u-1", "other", payload, SOURCE, 1000, 7))
    assert b"Anna" not in shown.payload
    assert shown.uuid == "u-1"
