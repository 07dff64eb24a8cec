"""Which events wait for one another: the key of every family, read fast, leniently, and from anything at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import SAMPLES

from rc_push import ordering
from rc_push.envelope import Envelope, Source
from rc_push.event_types import BY_EVENT_TYPE, BY_KEY, BY_MESSAGE_TYPE, BY_URI
from rc_push.ordering import FAMILIES, KEY_MAX_LENGTH, REMEMBERED_POSTS, Keys, key_of
from rc_push.payload import envelope_from_payload

SOURCE = Source("main", "team", "websocket")
E = "/restapi/v1.0/account/1/extension/2"
POSTS = "/team-messaging/v1/posts"


def event(body: Any, event: str = POSTS, source: Source = SOURCE) -> Envelope:
    made = envelope_from_payload(json.dumps({"uuid": "1", "event": event, "body": body}).encode(), source, 0)
    assert isinstance(made, Envelope)
    return made


def post(id_: Any = "7", chat: Any = "99", event_type: str = "PostAdded") -> Envelope:
    return event({"eventType": event_type, "id": id_, "groupId": chat})


def removal(id_: Any = "7") -> Envelope:
    return event({"eventType": "PostRemoved", "id": id_})


# ------------------------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize(
    ("uri", "body", "key"),
    [
        (POSTS, {"eventType": "PostAdded", "id": "7", "groupId": "99"}, "chat:99"),
        (POSTS, {"eventType": "PostChanged", "id": "7", "groupId": "99"}, "chat:99"),
        (POSTS, {"eventType": "PostRemoved", "id": "7", "groupId": "99"}, "chat:99"),
        (POSTS, {"eventType": "PostRemoved", "id": "7"}, "post:7"),
        (POSTS, {"eventType": "GroupLeft", "id": "99"}, "chat:99"),
        ("/team-messaging/v1/chats", {"eventType": "GroupRenamed", "id": "99", "name": "x"}, "chat:99"),
        (f"{E}/telephony/sessions?x=1", {"telephonySessionId": "s-1", "sessionId": "2"}, "call:s-1"),
        (f"{E}/message-store/instant?type=SMS", {"id": "5", "type": "SMS", "conversationId": "8"}, "conversation:8"),
        (f"{E}/message-store/instant", {"id": "5", "type": "SMS", "conversation": {"id": "8"}}, "conversation:8"),
        (f"{E}/message-store/instant", {"id": 5, "type": "SMS", "conversation": {"id": 8}}, "conversation:8"),
        (f"{E}/message-store/instant", {"id": 5, "type": "SMS", "conversation": 8}, "conversation:8"),
        (f"{E}/message-store/instant", {"id": 5, "type": "SMS", "conversation": {}}, "message:5"),
        (f"{E}/message-store/instant", {"id": 5, "type": "SMS", "conversationId": ""}, "message:5"),
        (f"{E}/fax?direction=Inbound", {"id": "5", "type": "Fax"}, "message:5"),
        (f"{E}/voicemail", {"id": 5, "type": "VoiceMail"}, "message:5"),
        (f"{E}/presence?sipData=true", {"extensionId": "2", "presenceStatus": "Busy"}, "extension:2"),
        (f"{E}/presence/dnd", {"extensionId": 2, "dndStatus": "TakeAllCalls"}, "extension:2"),
        (f"{E}/presence/line", {"extension": [{"id": "2"}], "sequence": 1}, f"main {E}/presence/line"),
        (f"{E}/message-store?x", {"extensionId": "2", "changes": []}, f"main {E}/message-store"),
        (f"{E}/telephony/sessions", {}, f"main {E}/telephony/sessions"),
        ("/restapi/v1.0/account/~/extension?a?b", {"extensions": []}, "main /restapi/v1.0/account/~/extension"),
        ("/x", None, "main /x"),
        ("/x", "text", "main /x"),
        ("", [], "main "),
    ],
)
def test_the_key_of_a_family(uri, body, key):
    assert key_of(event(body, uri)) == key


def test_a_tilde_is_somebody_else_for_each_account():
    uri = "/restapi/v1.0/account/~/extension"
    assert key_of(event({}, uri)) != key_of(event({}, uri, Source("bot", "team", "websocket")))


def test_the_same_chat_or_call_is_one_over_all_subscriptions_and_transports():
    other = Source("bot", "calls", "pubnub", "recovered")
    for body in ({"eventType": "GroupLeft", "id": "9"}, {"telephonySessionId": "s-1"}):
        assert key_of(event(body)) == key_of(event(body, source=other))


def test_the_table_names_families_that_exist_and_fields_that_are_read():
    messages = {f"{word}.received" for word in BY_MESSAGE_TYPE.values()}
    types = {*BY_EVENT_TYPE.values(), *dict(BY_KEY).values(), *(name for _, name in BY_URI), *messages}
    assert FAMILIES.keys() <= {name.partition(".")[0] for name in types}
    named = {name for places in FAMILIES.values() for _, name in places}
    assert named == set(ordering._Body.__struct_fields__)


# ------------------------------------------------------------------------------------------- a removal behind its post


def test_a_removal_that_does_not_name_its_chat_is_behind_its_post_all_the_same():
    keys = Keys()
    assert keys.key_of(post("7", "99")) == "chat:99"
    assert keys.key_of(post("8", "98")) == "chat:98"
    assert keys.key_of(removal("7")) == "chat:99"
    assert keys.key_of(removal("7")) == "chat:99"
    assert keys.key_of(removal(7)) == "chat:99", "an id is the same as a number"


def test_a_removal_of_an_unknown_post_has_a_key_of_its_own():
    keys = Keys()
    keys.key_of(event({"eventType": "GroupLeft", "id": "7"}))
    keys.key_of(post(None, "99"))
    assert keys.key_of(removal("7")) == "post:7"


def test_what_is_no_post_is_not_moved_into_a_chat():
    keys = Keys()
    keys.key_of(post("7", "99"))
    for other in (event({"id": "7", "type": "SMS"}, f"{E}/message-store/instant"), event({"id": "7"}, "/x")):
        assert keys.key_of(other) == key_of(other)


def test_so_many_posts_are_remembered_and_those_changed_last_the_longest():
    keys = Keys()
    for n in range(REMEMBERED_POSTS):
        keys.key_of(post(str(n)))
    keys.key_of(post("0", event_type="PostChanged"))
    keys.key_of(post("new"))
    assert [keys.key_of(removal(id_)) for id_ in ("0", "1", "2", "new")] == ["chat:99", "post:1", "chat:99", "chat:99"]
    assert len(keys._chats) == REMEMBERED_POSTS


def test_endless_ids_are_not_remembered_whole():
    keys = Keys()
    keys.key_of(post("7" * 1_000_000))
    assert max(map(len, keys._chats)) <= KEY_MAX_LENGTH


# ------------------------------------------------------------------------------------------------------ whatever comes


def sample_files() -> list[Path]:
    return sorted(SAMPLES.glob("event-*.json")) + sorted(SAMPLES.glob("body-*.json"))


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not beside this repository")
def test_every_published_sample_has_a_key_that_both_decoders_agree_on():
    found = {}
    for path in sample_files():
        payload = json.loads(path.read_text("utf-8"))
        if path.name.startswith("body-"):
            payload = {"uuid": "1", "event": POSTS, "body": payload}
        made = envelope_from_payload(json.dumps(payload).encode(), SOURCE, 0)
        assert isinstance(made, Envelope), path.name
        found[path.stem] = key_of(made)
        assert ordering._key(made, ordering._read_leniently(made.payload)) == found[path.stem]
    assert found["event-docs-post-1"] == "chat:995723345922"
    assert found["body-docs-PostRemoved"] == "chat:456775"
    assert found["body-docs-GroupLeft"] == "chat:637468356"
    assert found["event-docs-chat-1"] == "chat:1055879168002"
    assert found["event-docs-instant-message"] == "conversation:7876416245344257449"
    assert found["event-docs-sms-instant-2025"] == "conversation:1638233798595111162"
    assert found["event-docs-sms-v2-inbound-2026"] == "message:2791268747"
    assert found["event-docs-fax-message"] == "message:404068973008"
    assert found["event-docs-extension-presence"] == "extension:6610372004"
    assert found["event-docs-voice-telephony-session-event"] == "call:s-a6abd24ca6774373a8120a3390d3cbe8"
    assert found["event-docs-extension-telephony-sessions"].startswith("call:"), "in its mobile wrapper"
    assert found["event-docs-receive-fax"].endswith("/message-store")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not beside this repository")
@pytest.mark.parametrize("type_", [f"{family}.x" for family in FAMILIES])
def test_every_published_file_event_or_not_has_a_key_whatever_its_type_is_taken_for(type_):
    files = sorted(SAMPLES.glob("*.json"))
    assert files
    for path in files:
        made = Envelope("1", type_, path.read_bytes(), SOURCE, 0)
        assert key_of(made) == ordering._key(made, ordering._read_leniently(made.payload)), path.name


IDS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.just({"id": "8"}))
BODIES = st.one_of(
    st.none(),
    st.text(),
    st.lists(IDS),
    st.dictionaries(st.sampled_from([*ordering._Body.__struct_fields__, "other"]), IDS),
)
TYPES = st.sampled_from([f"{family}.x" for family in FAMILIES] + ["other"])


@given(st.fixed_dictionaries({}, optional={"event": st.one_of(st.text(), st.none()), "body": BODIES}), TYPES)
def test_the_fast_decoder_and_the_lenient_one_give_the_same_key(fields, type_):
    envelope = Envelope("1", type_, json.dumps(fields).encode(), SOURCE, 0)
    key = key_of(envelope)
    assert key == ordering._key(envelope, ordering._read_leniently(envelope.payload))
    assert key == Keys().key_of(envelope)
    assert key == key_of(envelope), "it is the same each time"
    assert key.encode()
    assert len(key) <= KEY_MAX_LENGTH


@given(
    st.one_of(st.binary(), st.text().map(str.encode), st.recursive(IDS, st.lists).map(lambda v: json.dumps(v).encode()))
)
def test_any_bytes_have_a_key(payload):
    envelope = Envelope("1", "post.added", payload, SOURCE, 0)
    assert Keys().key_of(envelope) == key_of(envelope)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"body":{"groupId":' + b"9" * 4300 + b"}}",
        b'{"body":{"groupId":' + b"9" * 4301 + b"}}",
        b'{"body":{"groupId":"' + b"9" * 5_000_000 + b'"}}',
        b'{"event":"/' + b"x" * 5_000_000 + b'"}',
        b'{"body":{"groupId":"\\ud83d"}}',
        b'{"event":"\\ud83d"}',
        b'{"event":"\xff"}',
        b'{"body":{"groupId":1e999}}',
        b'{"body":{"groupId":NaN}}',
        b"",
        b"[]",
        b"null",
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_hostile_payloads_have_a_short_key_that_can_be_stored(payload):
    key = key_of(Envelope("1", "post.added", payload, SOURCE, 0))
    assert key.encode()
    assert len(key) <= KEY_MAX_LENGTH
