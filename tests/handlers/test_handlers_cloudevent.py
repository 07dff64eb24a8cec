"""An event as a CloudEvent: the mapping, read back by the CloudEvents package, whatever the event says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

from rc_push.envelope import Envelope, Source
from rc_push.handlers.cloudevent import CONTENT_TYPE, binary, structured
from rc_push.payload import envelope_from_payload

SOURCE = Source("main", "team", "websocket")
FIELDS = {
    "uuid": "6452004109062593690",
    "event": "/team-messaging/v1/posts",
    "timestamp": "2026-11-23T10:00:00.120Z",
    "subscriptionId": "2db5",
    "ownerId": "233676004",
    "body": {"eventType": "PostAdded", "text": "grüß\nGott"},
}
EXPECTED = {
    "specversion": "1.0",
    "id": "6452004109062593690",
    "source": "/team-messaging/v1/posts",
    "type": "com.ringcentral.post.added",
    "time": datetime(2026, 11, 23, 10, 0, 0, 120_000, UTC),
    "datacontenttype": "application/json",
    "subscriptionid": "2db5",
    "ownerid": "233676004",
}


def envelope(payload: bytes | None = None, **changes: object) -> Envelope:
    made = envelope_from_payload(payload or json.dumps(FIELDS | changes).encode(), SOURCE, 1_800_000_000_000)
    assert isinstance(made, Envelope)
    return made


def from_structured(one: Envelope, **options: bool) -> BaseCloudEvent:
    return from_http_event(HTTPMessage({"content-type": CONTENT_TYPE}, structured(one, **options)))


def from_binary(one: Envelope, **options: bool) -> BaseCloudEvent:
    return from_http_event(HTTPMessage(*binary(one, **options)))


BOTH = pytest.mark.parametrize("read", [from_structured, from_binary])


@BOTH
def test_the_package_reads_back_what_ringcentral_said(read):
    event = read(envelope())
    assert event.get_attributes() == EXPECTED
    assert event.get_data() == FIELDS["body"]


@BOTH
def test_with_meta_comes_what_rc_push_knows(read):
    event = read(envelope(), meta=True)
    assert event.get_attributes() == EXPECTED | {
        "rcpushposition": "0",
        "rcpushreceivedat": "2027-01-15T08:00:00.000Z",
        "rcpushaccount": "main",
        "rcpushsubscription": "team",
        "rcpushtransport": "websocket",
        "rcpushorigin": "live",
    }


@BOTH
@pytest.mark.parametrize(
    ("timestamp", "year"),
    [
        ("2026-11-23T12:00:00+02:00", 2026),
        ("soon", 2027),
        (5, 2027),
        ("0001-01-01T00:00:00Z", 1),
        ("0001-01-01T00:00:00+01:00", 2027),
        ("9999-12-31T23:59:59.999Z", 9999),
        ("9999-12-31T23:59:59.999999Z", 2027),
        ("9999-12-31T23:00:00-05:00", 2027),
    ],
)
def test_the_time_is_an_instant_and_that_of_receiving_where_there_is_none(read, timestamp, year):
    assert read(envelope(timestamp=timestamp)).get_time().year == year


@pytest.mark.parametrize("body", ['{"n":1e999}', '{"n":12345678901234567890123}', '{"a":"\\ud800"}', "[1]", '"x"', "5"])
def test_the_bytes_of_a_body_come_through_untouched(body):
    one = envelope(b'{"uuid":"u-1","event":"/x","body":%b}' % body.encode())
    assert binary(one)[1] == body.encode()
    assert structured(one).endswith(b'"data":%b}' % body.encode())


def test_a_body_that_one_decoder_refuses_is_written_by_the_other():
    body = "[" * 600 + "]" * 600
    one = Envelope("u-1", "other", b'{"uuid":"u-1","event":"/x","body":%b,"x":NaN}' % body.encode(), SOURCE, 0)
    assert binary(one)[1] == body.encode()


@BOTH
def test_an_event_without_a_body_has_no_data(read):
    event = read(envelope(b'{"uuid":"u-1","event":"/x"}'))
    assert event.get_data() is None
    assert event.get_attributes()["source"] == "/x"
    assert "datacontenttype" not in event.get_attributes()


def test_a_body_of_null_is_data():
    one = envelope(body=None)
    assert json.loads(structured(one))["data"] is None
    assert binary(one)[1] == b"null"


@BOTH
@pytest.mark.parametrize(
    ("uri", "source"),
    [("", "/"), ("/a b", "/a%20b"), ("/a?b=%41", "/a?b=%41"), ("/x\r\nSet-Cookie: y", "/x%0D%0ASet-Cookie:%20y")],
)
def test_the_source_is_a_uri_reference_whatever_the_event_says(read, uri, source):
    assert read(envelope(event=uri)).get_source() == source


@BOTH
@pytest.mark.parametrize("owner", [None, "", {"a": 1}, "a\nb", "\ud800"])
def test_an_id_that_is_no_text_is_left_out(read, owner):
    assert "ownerid" not in read(envelope(ownerId=owner)).get_attributes()


TEXT = st.text(st.characters(), max_size=20)


@given(uri=TEXT, owner=TEXT, subscription=TEXT, timestamp=TEXT, text=TEXT)
def test_no_event_breaks_a_line_or_a_header(uri, owner, subscription, timestamp, text):
    one = envelope(event=uri, ownerId=owner, subscriptionId=subscription, timestamp=timestamp, body={"text": text})
    assert b"\n" not in structured(one, meta=True)
    headers, body = binary(one, meta=True)
    assert all(re.fullmatch(r"[\x21-\x7e]+", value) for value in headers.values()), headers
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in headers), headers
    assert json.loads(body) == {"text": text}
    assert from_structured(one).get_attributes() == from_binary(one).get_attributes()


def test_the_package_is_imported_by_who_uses_it_only():
    code = "import sys, rc_push.handlers.cloudevent; sys.exit(any(m.startswith('cloudevents') for m in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
