"""Whatever RingCentral sends becomes one envelope, or a record of why not; the bytes stay RingCentral's."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from published import SAMPLES

from rc_push.envelope import (
    RAW_MAX_BYTES,
    Batch,
    Cursor,
    Envelope,
    Gap,
    Source,
    Unreadable,
    envelope_from_dict,
    envelope_of_gap,
    envelope_to_dict,
    iso_from_ms,
    ms_from_iso,
)
from rc_push.payload import UNREAD_MAX_BYTES, UUID_MAX_LENGTH, envelope_from_payload, when_and_whose

SOURCE = Source("main", "team", "websocket")
RECEIVED_AT_MS = 1795428000190  # 2026-11-23T10:00:00.190Z
FIELDS = ("uuid", "event", "timestamp", "subscriptionId", "ownerId", "body")

# What RingCentral has published → the type that it must get. A body alone is put into an envelope of the posts family:
# real group events have arrived with that URI.
TYPES_OF_SAMPLES = {
    "body-docs-GroupChanged.json": "group.changed",
    "body-docs-GroupJoined.json": "group.joined",
    "body-docs-GroupLeft.json": "group.left",
    "body-docs-GroupRenamed.json": "group.renamed",
    "body-docs-PostAdded.json": "post.added",
    "body-docs-PostChanged.json": "post.changed",
    "body-docs-PostRemoved.json": "post.removed",
    "body-docs-WebhookCreated.json": "webhook.created",
    "body-docs-WebhookDeleted.json": "webhook.deleted",
    "body-docs-WebhookUpdated.json": "webhook.updated",
    "event-docs-account-presence.json": "presence.changed",
    "event-docs-ace-pbx-event.json": "insights.added",
    "event-docs-batch-message-optout.json": "sms.opt-out.changed",
    "event-docs-batch-messages-1.json": "sms.received",
    "event-docs-batch-messages-2.json": "sms.sent",
    "event-docs-chat-1.json": "group.joined",
    "event-docs-chat-2.json": "group.renamed",
    "event-docs-chat-3.json": "group.left",
    "event-docs-contact-center-phone-number.json": "phone-number.changed",
    "event-docs-detailed-extension-presence-with-sip.json": "presence.changed",
    "event-docs-detailed-extension-presence.json": "presence.changed",
    "event-docs-extension-favorites.json": "favorite.changed",
    "event-docs-extension-grant-list.json": "grant.changed",
    "event-docs-extension-info.json": "extension.updated",
    "event-docs-extension-list.json": "extension.updated",
    "event-docs-extension-presence-line.json": "presence.line.changed",
    "event-docs-extension-presence.json": "presence.changed",
    "event-docs-extension-telephony-sessions.json": "telephony.session",
    "event-docs-fax-message.json": "fax.received",
    "event-docs-instant-message.json": "sms.received",
    "event-docs-message-batch.json": "sms.batch.changed",
    "event-docs-message.json": "message-store.changed",
    "event-docs-post-1.json": "post.added",
    "event-docs-post-2.json": "post.changed",
    "event-docs-receive-fax.json": "message-store.changed",
    "event-docs-sms-instant-2025.json": "sms.received",
    "event-docs-sms-v2-inbound-2026.json": "sms.received",
    "event-docs-specific-message-batch.json": "sms.batch.changed",
    "event-docs-voice-cust-to-oper-event.json": "telephony.session",
    "event-docs-voice-telephony-session-event.json": "telephony.session",
    "event-seed-generic-GroupAdded.json": "group.added",
}

HEAD = {
    "uuid": "7719283746556473829",
    "event": "/team-messaging/v1/posts",
    "timestamp": "2026-11-23T10:00:00.120Z",
    "subscriptionId": "0c5d2a3e-11f0-4c0a-9a52-6a4f3c1d7e90",
    "ownerId": "301000200",
}
POST = {
    "eventType": "PostAdded",
    "id": "88001",
    "groupId": "4400",
    "type": "TextMessage",
    "text": "Lunch at noon? ☕",
    "creatorId": "301000200",
    "addedPersonIds": None,
    "attachments": [],
    "mentions": None,
}

# One of our own in the shape of each family and each irregularity: name → (what comes, type).
OWN = {
    "post": (HEAD | {"body": POST}, "post.added"),
    "group with the posts URI": (HEAD | {"body": {"eventType": "GroupRenamed", "id": "4400"}}, "group.renamed"),
    "the generic example": (HEAD | {"body": {"data": {"eventType": "GroupAdded"}}}, "group.added"),
    "telephony": (
        HEAD
        | {
            "event": "/restapi/v1.0/account/300/extension/301/telephony/sessions",
            "body": {"sequence": 4, "telephonySessionId": "s-1", "parties": [{"status": {"code": "Answered"}}]},
        },
        "telephony.session",
    ),
    "voicemail": (
        HEAD
        | {
            "event": "/restapi/v1.0/account/~/extension/~/voicemail",
            "body": {"id": "5", "type": "VoiceMail", "direction": "Inbound"},
        },
        "voicemail.received",
    ),
    "counts only": (
        HEAD
        | {
            "event": "/restapi/v1.0/account/~/extension/301/message-store",
            "body": {"extensionId": 301, "changes": [{"type": "SMS", "newCount": 1, "updatedCount": 0}]},
        },
        "message-store.changed",
    ),
    "reminder": (
        HEAD | {"event": "/restapi/v1.0/subscription/~?threshold=60&interval=15", "body": {"expiresIn": 60}},
        "subscription.reminder",
    ),
    "null body": (HEAD | {"body": None}, "other"),
    "list for a body": (HEAD | {"body": [1]}, "other"),
    "text for a body": (HEAD | {"body": "PostAdded"}, "other"),
    "no body": (HEAD, "other"),
}


def encode(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def take(payload: bytes, source: Source = SOURCE) -> Envelope | Unreadable:
    return envelope_from_payload(payload, source, RECEIVED_AT_MS)


def envelope_of(payload: bytes) -> Envelope:
    envelope = take(payload)
    assert isinstance(envelope, Envelope), envelope
    return envelope


def reason_of(payload: bytes) -> str:
    record = take(payload)
    assert isinstance(record, Unreadable), record
    assert record.raw == payload[:RAW_MAX_BYTES]
    assert (record.source, record.received_at_ms) == (SOURCE, RECEIVED_AT_MS)
    return record.reason


def strictly(text: bytes) -> dict:
    """Parse *text* as RFC 8259 has it: UTF-8, no NaN."""

    def refuse(name: str):
        raise AssertionError(name)

    parsed = json.loads(text.decode(), parse_constant=refuse)
    assert isinstance(parsed, dict)
    return parsed


# ------------------------------------------------------------------------------------------------- published samples


needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not beside this repository")


def sample_payload(name: str) -> bytes:
    text = (SAMPLES / name).read_bytes()
    return encode(HEAD)[:-1] + b',"body":' + text + b"}" if name.startswith("body-") else text


@needs_samples
@pytest.mark.parametrize(("name", "type_"), TYPES_OF_SAMPLES.items())
def test_every_published_event_becomes_an_envelope_of_its_type(name, type_):
    payload = sample_payload(name)
    envelope = envelope_of(payload)
    sent = json.loads(payload)
    sent |= sent.pop("pn_apns", {})
    sent.pop("aps", None)
    assert envelope.type == type_
    assert envelope.fields == sent
    assert strictly(envelope.to_json())["body"] == sent["body"]


@needs_samples
def test_no_published_event_is_missing_from_the_table():
    there = {path.name for pattern in ("event-*.json", "body-*.json") for path in SAMPLES.glob(pattern)}
    assert there == set(TYPES_OF_SAMPLES)


# -------------------------------------------------------------------------------------------------------- our shapes


@pytest.mark.parametrize(("fields", "type_"), OWN.values(), ids=OWN)
def test_each_shape_becomes_an_envelope_with_its_bytes_untouched(fields, type_):
    payload = encode(fields)
    envelope = envelope_of(payload)
    assert envelope.type == type_
    assert envelope.payload == payload
    assert envelope.fields == fields


def test_an_envelope_shows_ringcentrals_fields_and_ours():
    envelope = envelope_of(encode(HEAD | {"body": POST}))
    assert envelope.uuid == HEAD["uuid"]
    assert envelope.event == HEAD["event"]
    assert envelope.timestamp == HEAD["timestamp"]
    assert envelope.subscription_id == HEAD["subscriptionId"]
    assert envelope.owner_id == HEAD["ownerId"]
    assert envelope.body == POST
    assert envelope.received_at == datetime(2026, 11, 23, 10, 0, 0, 190000, UTC)
    assert (envelope.account, envelope.subscription) == ("main", "team")
    assert (envelope.transport, envelope.origin) == ("websocket", "live")
    assert envelope.position == 0


@pytest.mark.parametrize("more", [{}, {"ownerId": 1, "timestamp": None}], ids=["as documented", "otherwise"])
def test_when_it_was_sent_and_whose_it_is_can_be_had_without_keeping_anything_parsed(more):
    envelope = envelope_of(encode(HEAD | {"body": POST} | more))
    assert when_and_whose(envelope) == ("" if more else HEAD["timestamp"], HEAD["subscriptionId"])
    assert vars(envelope) == {}


def test_the_bytes_of_spaces_escapes_and_numbers_stay_as_they_came():
    payload = (
        b'{ "uuid" : "1",\t"event":"\\/x", "body":{"eventType":"PostAdded","n":1.10,"e":1E2,"t":"\\u00e9\xc3\xa9"} }'
    )
    assert envelope_of(payload).payload == payload
    unknown = payload.replace(b"PostAdded", b"Surprise")
    assert envelope_of(unknown).payload == unknown


def test_an_event_that_says_its_type_as_documented_is_read_once_and_by_the_fast_decoder(monkeypatch):
    monkeypatch.setattr("rc_push.payload._decode_any", None)
    assert envelope_of(encode(HEAD | {"body": POST})).type == "post.added"


def test_white_space_around_the_object_is_dropped():
    assert envelope_of(b' \r\n\t{"uuid":"1","event":"/x"}\n').payload == b'{"uuid":"1","event":"/x"}'


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_payload_of_many_lines_becomes_one_line_that_says_the_same(event_type, newline):
    fields = HEAD | {"body": {"eventType": event_type, "text": "two\nlines\r\nand a \\ud800", "list": [1, [2.50]]}}
    payload = json.dumps(fields, indent=2).replace("\n", newline).encode()
    line = envelope_of(payload).to_json()
    assert b"\n" not in line
    assert b"\r" not in line
    assert {key: value for key, value in strictly(line).items() if key != "rcPush"} == fields


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
def test_many_lines_with_half_a_surrogate_become_one_line(event_type):
    payload = b'{"uuid":"1",\n"event":"/X","body":{"eventType":"%b","text":"X \\ud800"\n}}' % event_type.encode()
    envelope = envelope_of(payload)
    assert envelope.payload == payload.replace(b"\n", b"")
    assert envelope.body["text"] == "X \ud800"


@pytest.mark.parametrize(
    "uuid",
    [
        "4b3c0c52-8a59-4a0e-9df1-2f7bb7d4f1c7",
        "7719283746556473829",
        "adt-pod01-39-1000001-200000002",
        "x" * UUID_MAX_LENGTH,
    ],
)
def test_every_known_form_of_uuid_is_taken_as_it_is(uuid):
    envelope = envelope_of(encode(HEAD | {"uuid": uuid, "body": POST}))
    assert envelope.uuid == uuid
    assert envelope.fields["uuid"] == uuid


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
@pytest.mark.parametrize(
    "uuid", ["", None, True, 1.5, [], {}, "x" * (UUID_MAX_LENGTH + 1), "a\nb", "a\x00b", "\x1b[2J", "\ud800"]
)
def test_what_cannot_be_a_key_is_no_uuid(uuid, event_type):
    fields = HEAD | {"uuid": uuid, "body": {"eventType": event_type}}
    assert reason_of(json.dumps(fields).encode()) == "no usable uuid"


def test_a_uuid_of_200_digits_as_a_number_is_a_key_and_one_more_is_not():
    assert envelope_of(b'{"uuid":%b,"event":"/x"}' % (b"9" * UUID_MAX_LENGTH)).uuid == "9" * UUID_MAX_LENGTH
    assert reason_of(b'{"uuid":%b,"event":"/x"}' % (b"9" * (UUID_MAX_LENGTH + 1))) == "no usable uuid"


@pytest.mark.parametrize("missing", ["timestamp", "subscriptionId", "ownerId", "body"])
def test_any_field_but_uuid_and_event_may_be_missing_or_null(missing):
    without = {key: value for key, value in (HEAD | {"body": POST}).items() if key != missing}
    for fields in (without, without | {missing: None}):
        envelope = envelope_of(encode(fields))
        assert envelope.fields == fields
        absent = {"timestamp": envelope.timestamp, "subscriptionId": envelope.subscription_id}
        absent |= {"ownerId": envelope.owner_id, "body": envelope.body}
        assert not absent[missing]


def test_number_ids_become_text():
    envelope = envelope_of(encode(HEAD | {"uuid": 77, "subscriptionId": 88, "ownerId": 99, "body": {"id": 5}}))
    assert (envelope.uuid, envelope.subscription_id, envelope.owner_id) == ("77", "88", "99")
    assert envelope.fields["uuid"] == "77"
    assert envelope.body == {"id": 5}, "the body is RingCentral's"
    assert envelope_of(encode(HEAD | {"uuid": 77})).payload == encode(HEAD | {"uuid": "77"}), "no byte is added"


@pytest.mark.parametrize("event", [None, 5, [], {}])
def test_without_an_event_uri_it_is_unreadable(event):
    assert reason_of(encode(HEAD | {"event": event})) == "no event URI"
    assert reason_of(b'{"uuid":"1"}') == "no event URI"


def test_an_empty_event_uri_is_still_an_event():
    envelope = envelope_of(b'{"uuid":"1","event":""}')
    assert (envelope.event, envelope.timestamp, envelope.type) == ("", "", "other")


def test_the_mobile_wrapper_is_taken_off():
    inner = {key: HEAD[key] for key in ("uuid", "event", "ownerId")}
    inner["body"] = {"telephonySessionId": "s-1", "sequence": 1}
    outer = {"uuid": HEAD["uuid"], "ownerId": "9", "subscriptionId": HEAD["subscriptionId"]}
    envelope = envelope_of(encode(outer | {"pn_apns": {"aps": {"content-available": 1}} | inner}))
    assert envelope.fields == inner | {"subscriptionId": HEAD["subscriptionId"]}
    assert envelope.owner_id == HEAD["ownerId"], "what stands inside is the envelope's own"
    assert envelope.type == "telephony.session"


def test_a_wrapper_that_wraps_nothing_is_a_key_like_any_other():
    assert envelope_of(encode(HEAD | {"pn_apns": "text"})).fields["pn_apns"] == "text"


def test_keys_that_nobody_knows_stay():
    payload = encode(HEAD | {"body": POST, "somethingNew": {"a": [1.50]}})
    assert envelope_of(payload).payload == payload


# ------------------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    "payload",
    [
        b'{"uuid":"1","event":"/x","rcPush":{"position":9}}',
        b'{"rcPush":1,"uuid":"1","event":"/x","rcPush":{"type":"forged"}}',
        b'{"uuid":"1","event":"/x","rc\\u0050ush":{"position":9}}',
        b'{"pn_apns":{"uuid":"1","event":"/x","rcPush":{"position":9}}}',
        b'{"uuid":"1","event":"/x","rcPush":null,"body":{"eventType":"PostAdded"}}',
    ],
)
def test_what_claims_to_be_ours_never_survives(payload):
    envelope = envelope_of(payload)
    pairs = json.loads(envelope.to_json(), object_pairs_hook=list)
    assert [key for key, _ in pairs].count("rcPush") == 1
    assert strictly(envelope.to_json())["rcPush"]["account"] == "main"
    assert "rcPush" not in envelope.fields


def test_ours_inside_the_body_is_ringcentrals_business():
    assert envelope_of(encode(HEAD | {"body": {"rcPush": 1}})).body == {"rcPush": 1}


# Each is put into a body twice: behind a type that is known from the first look, and behind one that is not.
BROKEN_VALUES = {
    "NaN": (b"NaN", "not JSON: NaN is no JSON"),
    "Infinity": (b"Infinity", "not JSON: Infinity is no JSON"),
    "minus Infinity": (b"[-Infinity]", "not JSON: -Infinity is no JSON"),
    "NaN on two lines": (b"\nNaN\n", "not JSON: NaN is no JSON"),
    "invalid UTF-8": (b'"\xff"', "not UTF-8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "half a character": (b'"\xc3"', "not UTF-8"),
    "a raw line end in a text": (b'"a\nb"', "not JSON: Invalid control character"),
    "a raw tab in a text": (b'"a\tb"', "not JSON: Invalid control character"),
    "NUL in a text": (b'"\x00"', "not JSON: Invalid control character"),
    "an unknown escape": (b'"\\x41"', "not JSON: Invalid \\escape"),
    "a comma too much": (b"[1,]", "not JSON: "),
    "a leading zero": (b"01", "not JSON: "),
    "nothing": (b"", "not JSON: "),
    "an integer too long to read": (b"9" * 5000, "not JSON: Exceeds the limit"),
    "one level too many": (b"[" * 511 + b"]" * 511, "nested too deeply"),
    "objects, one too many": (b'{"a":' * 511 + b"1" + b"}" * 511, "nested too deeply"),
    "brackets after ones in a text": (b'["\\"[[]]",' + b"[" * 510 + b"]" * 511, "nested too deeply"),
    "100 000 brackets": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "100 000 brackets that never close": (b'{"a":' * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
@pytest.mark.parametrize(("value", "reason"), BROKEN_VALUES.values(), ids=BROKEN_VALUES)
def test_a_body_that_is_no_json_makes_the_message_unreadable(value, reason, event_type):
    payload = b'{"uuid":"1","event":"/x","body":{"eventType":"%b","value":%b}}' % (event_type.encode(), value)
    assert reason_of(payload).startswith(reason)


def test_where_the_reader_has_no_room_left_to_go_down_the_message_is_unreadable(monkeypatch):
    """How deep Python's reader may go depends on where it is called, and on its version: here, nowhere."""

    def goes_down(_text):
        raise RecursionError

    monkeypatch.setattr("rc_push.payload._decode_any", goes_down)
    assert reason_of(encode(HEAD | {"news": 1})) == "nested too deeply"


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
@pytest.mark.parametrize(
    "value",
    [
        b'"\\ud800"',
        b"1e999",
        b"9" * 4000,
        b"[" * 510 + b"]" * 510,
        b"[" + b"[],{}," * 1000 + b"1]",
        b'"' + b"[" * 1000 + b'"',
        b'"\xe2\x80\xa8\xc2\x85"',
    ],
)
def test_what_is_valid_json_stays_byte_for_byte_however_odd(value, event_type):
    payload = b'{"uuid":"1","event":"/x","body":{"eventType":"%b","value":%b}}' % (event_type.encode(), value)
    envelope = envelope_of(payload)
    assert envelope.payload == payload
    strictly(envelope.to_json())


def test_a_number_that_python_reads_as_infinite_is_never_written_as_infinity():
    """Only where the object must be written anew: `1e999` is JSON, what `json` makes of it is not."""
    assert reason_of(b'{"uuid":1,"event":"/x","body":1e999}').startswith("not JSON: ")


def test_the_longest_integer_that_python_reads_passes_and_one_digit_more_does_not():
    def payload(digits: int) -> bytes:
        return b'{"uuid":"1","event":"/x","body":{"eventType":"PostAdded","n":%b}}' % (b"9" * digits)

    assert envelope_of(payload(UNREAD_MAX_BYTES)).body["n"] == 10**UNREAD_MAX_BYTES - 1
    assert reason_of(payload(UNREAD_MAX_BYTES + 1)).startswith("not JSON: ")


@pytest.mark.parametrize(
    "payload", [b"", b" ", b"garbage", b"{", b'{"uuid":"1","event":"/x"} x', b"\xef\xbb\xbf{}", b"\x0b{}"]
)
def test_what_is_no_json_is_unreadable(payload):
    assert reason_of(payload).startswith("not JSON: ")


@pytest.mark.parametrize("payload", [b"[]", b"null", b'"text"', b"5", b'[{"uuid":"1","event":"/x"}]'])
def test_what_is_no_object_is_unreadable(payload):
    assert reason_of(payload) == "not a JSON object"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"])
def test_only_utf_8_is_read(encoding):
    text = '{"uuid":"1","event":"/x","body":{"eventType":"PostAdded","text":"é"}}'
    assert isinstance(take(text.encode(encoding)), Unreadable)


def test_of_two_equal_keys_the_last_counts_for_us_as_for_whoever_reads_the_line():
    payload = (
        b'{"uuid":"1","event":"/x","uuid":"2","body":{"eventType":"PostAdded"},"body":{"eventType":"PostRemoved"}}'
    )
    envelope = envelope_of(payload)
    assert (envelope.uuid, envelope.type) == ("2", "post.removed")
    assert envelope.payload == payload
    assert strictly(envelope.to_json())["uuid"] == "2"


@pytest.mark.parametrize("event_type", ["PostAdded", "Surprise"])
def test_ten_megabytes_are_an_event_like_any_other(event_type):
    payload = encode(HEAD | {"body": {"eventType": event_type, "text": "x" * 10_000_000}})
    assert envelope_of(payload).payload == payload


def test_an_unreadable_message_keeps_a_bounded_beginning_and_its_length():
    record = take(b"x" * (RAW_MAX_BYTES + 1))
    assert isinstance(record, Unreadable)
    assert record.raw == b"x" * RAW_MAX_BYTES
    assert record.reason.endswith(f" (first {RAW_MAX_BYTES} of {RAW_MAX_BYTES + 1} bytes kept)")
    assert Unreadable.of(b"x" * RAW_MAX_BYTES, "why", SOURCE, 0).reason == "why"


def test_the_reason_never_quotes_the_message():
    assert "hunter2" not in reason_of(b'{"uuid":"1","event":"/x","body":hunter2}')


# ------------------------------------------------------------------------------------------------------ what users see


@pytest.mark.parametrize(("fields", "type_"), OWN.values(), ids=OWN)
def test_the_line_holds_ringcentrals_object_unchanged_and_ours_under_one_key(fields, type_):
    source = Source("main", "team", "pubnub", "recovered")
    envelope = Envelope(fields["uuid"], type_, encode(fields), source, RECEIVED_AT_MS, 1042)
    line = envelope.to_json()
    assert b"\n" not in line
    assert strictly(line) == fields | {
        "rcPush": {
            "position": 1042,
            "receivedAt": "2026-11-23T10:00:00.190Z",
            "account": "main",
            "subscription": "team",
            "transport": "pubnub",
            "origin": "recovered",
            "type": type_,
        }
    }
    assert list(strictly(line))[-1] == "rcPush"
    assert line.startswith(envelope.payload[:-1])


def test_names_with_quotes_do_not_break_the_line():
    source = Source('a"b', "c\\d\n", "websocket")
    envelope = Envelope("1", "other", b'{"uuid":"1"}', source, 0)
    ours = strictly(envelope.to_json())["rcPush"]
    assert envelope.to_dict()["rcPush"] == ours
    assert (ours["account"], ours["subscription"]) == ('a"b', "c\\d\n")


def test_a_gap_prints_its_times_as_ringcentral_does_and_null_while_open():
    gap = Gap("team", "websocket", RECEIVED_AT_MS, None, "connection lost", "possible")
    assert gap.to_dict() == {
        "subscription": "team",
        "transport": "websocket",
        "since": "2026-11-23T10:00:00.190Z",
        "until": None,
        "reason": "connection lost",
        "certainty": "possible",
    }
    closed = Gap("team", "websocket", RECEIVED_AT_MS, RECEIVED_AT_MS + 1, "connection lost", "certain")
    assert closed.to_dict()["until"] == "2026-11-23T10:00:00.191Z"


def test_a_gap_that_is_closed_stays_as_it_is_and_an_open_one_never_ends_before_it_began():
    gap = Gap("team", "websocket", 100, None, "why", "certain")
    assert gap.closed_at(250) == Gap("team", "websocket", 100, 250, "why", "certain")
    assert gap.closed_at(40) == Gap("team", "websocket", 100, 100, "why", "certain")
    assert gap.closed_at(250).closed_at(900).until_ms == 250
    assert Gap("team", "websocket", -5, 0, "ended as 1970 began", "certain").closed_at(900).until_ms == 0


def test_a_gap_is_told_in_the_form_and_on_the_one_line_of_an_event_and_the_same_gap_under_the_same_uuid():
    gap = Gap("team", "websocket", 0, None, "no connection", "possible")
    told = envelope_of_gap(gap, "main", RECEIVED_AT_MS)
    assert told.payload.decode() == (
        f'{{"uuid":"{told.uuid}","event":"/rc-push/gap","timestamp":"2026-11-23T10:00:00.190Z","body":'
        '{"subscription":"team","transport":"websocket","since":"1970-01-01T00:00:00.000Z","until":null,'
        '"reason":"no connection","certainty":"possible"}}'
    )
    assert (told.type, told.received_at_ms, told.source) == ("rc-push.gap", RECEIVED_AT_MS, SOURCE)
    assert envelope_of_gap(gap, "main", RECEIVED_AT_MS + 1).uuid == told.uuid
    assert envelope_of_gap(gap.closed_at(1), "main", RECEIVED_AT_MS).uuid != told.uuid


def test_a_cursor_does_not_show_its_state():
    cursor = Cursor("team", "websocket", RECEIVED_AT_MS, b'{"wsc":"s3cret"}')
    assert "s3cret" not in f"{cursor} {cursor!r} {[cursor]}"
    assert "2026-11-23T10:00:00.190Z" in repr(cursor)


def test_a_batch_counts_what_was_received_and_says_whether_there_is_anything_to_store():
    envelope = envelope_of(encode(HEAD))
    unreadable = Unreadable(b"", "why", SOURCE, 0)
    gap = Gap("team", "websocket", 0, None, "why", "certain")
    assert Batch("team", [envelope, envelope], [unreadable], [gap]).received == 3
    assert not Batch("team")
    assert Batch("team", [envelope])
    assert Batch("team", unreadables=[unreadable])
    assert Batch("team", gaps=[gap])
    assert Batch("team", cursor=Cursor("team", "websocket", 0))
    assert Batch("team", closes_gaps_at_ms=0), "the first instant of 1970 is an instant"
    assert Batch("team", twins=2).received == 2


def test_two_reads_in_one_batch_say_what_they_say_one_after_the_other():
    first, second = envelope_of(encode(HEAD)), envelope_of(encode(HEAD | {"uuid": "2"}))
    bad, worse = Unreadable(b"1", "why", SOURCE, 0), Unreadable(b"2", "why", SOURCE, 0)
    cursor, later = Cursor("team", "websocket", 1), Cursor("team", "websocket", 2)
    batch = Batch("team", [first], [bad], cursor=cursor, twins=1)
    batch.add(Batch("team", [second], [worse], cursor=later, twins=2))
    assert batch == Batch("team", [first, second], [bad, worse], cursor=later, twins=3)
    batch.add(Batch("team"))
    assert batch == Batch("team", [first, second], [bad, worse], cursor=later, twins=3)


def test_a_later_read_closes_the_gaps_of_the_one_before_it_and_not_its_own():
    opened, other = (Gap("team", "websocket", since_ms, None, "why", "certain") for since_ms in (100, 300))
    batch = Batch("team", gaps=[opened])
    batch.add(Batch("team", gaps=[other], closes_gaps_at_ms=200))
    assert batch == Batch("team", gaps=[opened.closed_at(200), other], closes_gaps_at_ms=200)
    batch.add(Batch("team", closes_gaps_at_ms=0))
    assert batch.closes_gaps_at_ms == 0, "the last word; what was open when the first was said is closed"
    assert batch.gaps == [opened.closed_at(200), other.closed_at(0)]


@pytest.mark.parametrize("fields", [HEAD, HEAD | {"body": {"text": 'ü "☕" \\ud800'}}])
def test_an_envelope_is_the_same_after_another_process_was_told_of_it_in_json(fields):
    sent = envelope_of(encode(fields))
    sent = Envelope(sent.uuid, sent.type, sent.payload, Source("a", "s", "pubnub", "recovered"), 7, 1042)
    assert envelope_from_dict(json.loads(json.dumps(envelope_to_dict(sent)))) == sent


# --------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-23T10:00:00.190Z", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00.190+00:00", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00.190+0000", RECEIVED_AT_MS),
        ("2026-11-23T11:30:00.190+01:30", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00.190", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00.190999999Z", RECEIVED_AT_MS + 1),
        ("2026-11-23T10:00:00.190000001Z", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00.19Z", RECEIVED_AT_MS),
        ("2026-11-23T10:00:00Z", RECEIVED_AT_MS - 190),
        ("2026-11-23T10:00Z", RECEIVED_AT_MS - 190),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_every_spelling_of_a_time_is_read(text, ms):
    assert ms_from_iso(text) == ms


@pytest.mark.parametrize("zone", ["JST-9", "EST5"])
def test_a_time_without_a_zone_is_utc_wherever_this_machine_stands(monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert ms_from_iso("2026-11-23T10:00:00.190") == RECEIVED_AT_MS
        assert iso_from_ms(RECEIVED_AT_MS) == "2026-11-23T10:00:00.190Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01T00:00:00Z", "1795428000190", "2026-11-23T25:00:00Z", "\ud800"]
)
def test_what_is_no_time_is_none(text):
    assert ms_from_iso(text) is None


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+00:01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-00:01"]
)
def test_a_time_that_cannot_be_written_in_utc_is_none(text):
    assert ms_from_iso(text) is None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_the_first_and_the_last_time_of_the_calendar_are_read_and_written(text):
    assert iso_from_ms(ms_from_iso(text))[:22] == text[:22]  # so far from 1970 a float is short of the last digit


@given(st.integers(0, ms_from_iso("2200-01-01T00:00:00Z")))
def test_a_time_written_and_read_is_the_same(ms):
    text = iso_from_ms(ms)
    assert ms_from_iso(text) == ms
    assert len(text) == len("2026-11-23T10:00:00.190Z")
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


@given(st.text())
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59.999999999-23:59")
def test_reading_a_time_raises_nothing(text):
    assert isinstance(ms_from_iso(text), int | None)


# ---------------------------------------------------------------------------------------------------------- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)
ENVELOPE_LIKE = st.fixed_dictionaries(
    {"uuid": st.text(min_size=1) | st.integers() | JSON, "event": st.text() | JSON},
    optional={
        "timestamp": st.text() | JSON,
        "subscriptionId": st.text() | JSON,
        "ownerId": st.text() | JSON,
        "body": st.fixed_dictionaries({"eventType": st.sampled_from(["PostAdded", "Update"]) | JSON}) | JSON,
        "rcPush": JSON,
        "pn_apns": st.dictionaries(st.sampled_from(["uuid", "event", "body", "aps", "rcPush"]), JSON) | JSON,
        "new": JSON,
    },
)
DUMPED = st.builds(
    lambda value, indent, is_ascii: json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode(
        errors="surrogatepass"
    ),
    ENVELOPE_LIKE | JSON,
    st.none() | st.just(2),
    st.booleans(),
)


def assert_taken_well(payload: bytes) -> None:
    """Assert what holds for every message that there can be."""
    taken = take(payload)
    if isinstance(taken, Unreadable):
        assert taken.raw == payload
        assert taken.reason
        return
    line = taken.to_json()
    assert b"\n" not in line
    parsed = strictly(line)
    assert parsed["uuid"] == taken.uuid == taken.uuid.encode().decode()
    assert parsed["rcPush"]["position"] == 0
    assert parsed["rcPush"]["type"] == taken.type
    assert parsed == taken.to_dict()
    del parsed["rcPush"]
    assert parsed == taken.fields
    assert when_and_whose(taken) == (taken.timestamp, taken.subscription_id)


@given(st.binary())
def test_no_bytes_make_it_raise(payload):
    assert_taken_well(payload)


@given(DUMPED)
def test_no_json_makes_it_raise_and_every_envelope_is_one_line_of_json(payload):
    assert_taken_well(payload)


@given(DUMPED, st.data())
def test_no_damage_to_a_message_makes_it_raise(payload, data):
    at = data.draw(st.integers(0, max(0, len(payload) - 1)))
    junk = data.draw(st.binary(max_size=3))
    assert_taken_well(payload[:at] + junk + payload[at + data.draw(st.integers(0, 3)) :])


@given(ENVELOPE_LIKE.filter(lambda fields: isinstance(fields["uuid"], str) and isinstance(fields["event"], str)))
def test_ringcentrals_six_fields_come_out_as_they_went_in(fields):
    fields = {key: value for key, value in fields.items() if key in FIELDS}
    payload = json.dumps(fields).encode()
    taken = take(payload)
    if isinstance(taken, Envelope):
        line = strictly(taken.to_json())
        for key in ("event", "timestamp", "body"):
            assert json.dumps(line.get(key)) == json.dumps(fields.get(key))
    else:
        assert taken.reason in {"no usable uuid"} | {
            f"not JSON: {c} is no JSON" for c in ("NaN", "Infinity", "-Infinity")
        }


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-(1 << 47), "0001-01-01T00:00:00.000Z"),
        (-(1 << 63), "0001-01-01T00:00:00.000Z"),
        ((1 << 63) - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_told_as_its_first_or_last_instant(ms, text):
    assert iso_from_ms(ms) == text
