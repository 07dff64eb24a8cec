"""What one gateway frame says."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from published import SAMPLES

from rc_push.protocol import frames
from rc_push.protocol.frames import BadFrame, Frame, Wsc

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
# Objects that look like a meta, with any value at any place.
metas = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.sampled_from(["Heartbeat", "ClientRequest", "7", 7, {"token": "t", "sequence": 2}])
        for name in ("type", "messageId", "status", "wsc", "method", "path", "query", "headers")
    },
)
frame_like = st.tuples(metas, json_values) | st.tuples(metas)
NO_FRAME = "not an array that begins with an object"


def decoded(data: bytes) -> Frame:
    frame = frames.decode(data)
    assert isinstance(frame, Frame), frame
    return frame


def refused(data: bytes) -> BadFrame:
    frame = frames.decode(data)
    assert isinstance(frame, BadFrame), frame
    assert frame.raw == data
    return frame


def test_a_frame_gives_its_meta_and_its_body_byte_for_byte():
    body = b'{ "uuid" : "1",\t"n": 1.50, "text":"\\u00e9 \xc3\xa9" }'
    meta = b'{"type":"ServerNotification","messageId":"1","status":200,"wsc":{"token":"t","sequence":3},"new":[1]}'
    frame = decoded(b"[" + meta + b"," + body + b"]")
    assert (frame.meta.type, frame.meta.messageId, frame.meta.status) == ("ServerNotification", "1", 200)
    assert frame.meta.wsc == Wsc("t", 3)
    assert bytes(frame.body) == body


def test_a_frame_of_one_element_has_an_empty_body():
    assert bytes(decoded(b'[{"type":"Heartbeat","messageId":"h"}]').body) == b""


def test_a_request_keeps_method_path_and_query():
    meta = decoded(b'[{"type":"ClientRequest","method":"GET","path":"/x","query":{"a":1}}]').meta
    assert (meta.method, meta.path, meta.query) == ("GET", "/x", {"a": 1})


def test_the_lenient_reading_keeps_method_path_and_query_too():
    meta = decoded(b'[{"type":"ClientRequest","messageId":7,"method":"GET","path":"/x","query":{"a":1}}]').meta
    assert (meta.messageId, meta.method, meta.path, meta.query) == ("7", "GET", "/x", {"a": 1})
    meta = decoded(b'[{"type":"ClientRequest","messageId":7,"method":null}]').meta
    assert (meta.method, meta.path, meta.query) == ("", "", None)


@pytest.mark.parametrize(("said", "status"), [("-1", 0), ("0", 0), ("1", 1), ("999", 999), ("1000", 0), ('"0x1"', 0)])
def test_the_lenient_reading_takes_as_a_status_what_can_be_one(said, status):
    assert decoded(b'[{"type":"X","messageId":7,"status":%b}]' % said.encode()).meta.status == status


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('{"type":"X","messageId":12}', ("X", "12", 0, None)),
        ('{"type":"X","status":"404"}', ("X", "", 404, None)),
        ('{"type":"X","status":"soon","messageId":[]}', ("X", "", 0, None)),
        ('{"type":"X","wsc":{"token":5}}', ("X", "", 0, None)),
        ('{"type":"X","wsc":{"token":""},"messageId":1}', ("X", "1", 0, None)),
        ('{"type":"X","wsc":{"token":"t","sequence":"9"}}', ("X", "", 0, Wsc("t", 0))),
        ('{"type":"X","wsc":{"token":"t","sequence":9},"messageId":1}', ("X", "1", 0, Wsc("t", 9))),
        ('{"type":"X","wsc":"t","method":5,"path":null}', ("X", "", 0, None)),
        ('{"type":"X","messageId":"\\ud800"}', ("X", "\ud800", 0, None)),
    ],
)
def test_values_of_a_wrong_type_are_read_as_far_as_they_make_sense(meta, expected):
    found = decoded(f"[{meta}]".encode()).meta
    assert (found.type, found.messageId, found.status, found.wsc) == expected


def test_a_frame_of_one_element_has_an_empty_body_by_the_lenient_reading_too():
    assert bytes(decoded(b'[{"type":"X","messageId":1}]').body) == b""


@pytest.mark.parametrize("meta", [b'{"type":"X","messageId":1}', b' {"type":"X","headers":{"a":"\\ud800]},{"}}\t'])
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[1,"\\ud800"], "n" : 12345678901234567890.123,"big":1e999,"d":1,"d":2,"t":"\xc3\xa9 \xf0\x9f\x98\x80"}',
        b'"},{"',
        b"NaN",
        b"[]",
    ],
)
def test_the_lenient_reading_leaves_the_body_byte_for_byte_too(meta, body):
    assert bytes(decoded(b"[" + meta + b"," + body + b"]").body) == body
    assert bytes(decoded(b" [\n" + meta + b"\r\n,\t " + body + b" , 7 ]\n").body) == body


def test_a_multipart_answer_keeps_its_parts_as_the_body():
    frame = decoded(
        b'[{"type":"ClientRequest","messageId":"1","status":200},--Boundary_1\r\n\r\nabc\r\n--Boundary_1--]'
    )
    assert (frame.meta.type, frame.meta.status) == ("ClientRequest", 200)
    assert bytes(frame.body) == b"--Boundary_1\r\n\r\nabc\r\n--Boundary_1--]"
    frame = decoded(b'[{"type":"ClientRequest"},--Boundary_1\r\n\r\na,--Boundary_1\r\n\r\nb\r\n--Boundary_1--]')
    assert bytes(frame.body).startswith(b"--Boundary_1\r\n\r\na,--Boundary_1"), "the parts begin at the first mark"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"not-json", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{}", NO_FRAME),
        (b"[]", NO_FRAME),
        (b"[7]", NO_FRAME),
        (b"null", NO_FRAME),
        (b"[{}]", "no type"),
        (b'[{"type":7}]', "no type"),
        (b'[{"type":""},{}]', None),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8: invalid start byte at byte 0"),
        (b'[{"type":"X"},{"a":"\xff"}]', "not UTF-8: invalid start byte at byte 6"),
        (b'["' + b"x" * 5_000_000 + b'"]', NO_FRAME),
    ],
)
def test_what_is_no_frame_comes_back_whole_with_the_reason(data, reason):
    if reason is None:
        assert decoded(data).meta.type == ""
    else:
        assert refused(data).reason == reason


def test_a_refused_frame_says_why_in_few_words():
    assert len(refused(b"x" * 1_000_000).reason) < 200


def test_what_is_encoded_is_decoded():
    meta = {"type": "ClientRequest", "messageId": "1", "method": "POST", "path": "/p"}
    assert bytes(decoded(frames.encode(meta, b'{"a":1}')).body) == b'{"a":1}'
    assert frames.encode(meta) == b"[" + json.dumps(meta, separators=(",", ":")).encode() + b"]"


class Details(msgspec.Struct):
    name: str = "none"
    size: int = 7
    limits: list[int] = []
    inner: list[Wsc] = []
    lasts: float = 0.5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{}", Details()),
        (b'{"name":null,"size":null,"limits":null,"news":1}', Details()),
        (b'{"name":"x","size":"90"}', Details("x", 90)),
        (b'{"limits":[1,null,"2"]}', Details(limits=[1, 2])),
        (b'{"inner":[null,{"token":"t","sequence":null}]}', Details(inner=[Wsc("t", 0)])),
        (b'{"name":5,"inner":[{"token":1.50}]}', Details("5", inner=[Wsc("1.50")])),
        (b'{"size":90.0}', Details(size=90)),
        (b'{"name":"\\ud800","inner":[{"token":"\\ud83d\\ude00"}]}', Details("\\ud800", inner=[Wsc("\U0001f600")])),
    ],
)
def test_defaults_stand_in_for_nulls_wherever_they_are_and_text_and_numbers_for_each_other(data, expected):
    assert frames.decode_tolerantly(data, Details) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"name":{},"size":"x","limits":7,"inner":"t"}', Details()),
        (b'{"name":true,"size":true,"limits":{},"inner":{}}', Details()),
        (
            b'{"name":"x","size":NaN,"limits":[1,"x",{},2],"inner":[7,{"sequence":1},{"token":"t","sequence":[]}]}',
            Details("x", limits=[1, 2], inner=[Wsc("t", 0)]),
        ),
        (b'{"name":"x","size":Infinity,"lasts":NaN}', Details("x")),
        *((b'{"name":"x","lasts":%b}' % far, Details("x")) for far in (b"-Infinity", b'"nan"', b'"-inf"', b"1e999")),
    ],
)
def test_what_does_not_fit_is_left_out_and_nothing_else(data, expected):
    assert frames.decode_tolerantly(data, Details) == expected


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"7", b'{"size":'])
def test_what_cannot_be_read_tolerantly_is_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's are, with other words in each version
        frames.decode_tolerantly(data, Details)


def test_a_field_that_is_needed_is_missed_where_it_does_not_fit():
    with pytest.raises(ValueError, match="token"):
        frames.decode_tolerantly(b'{"token":{}}', Wsc)


def test_a_wsc_does_not_show_its_token():
    assert repr(Wsc("planted-secret", 4)) == "Wsc(sequence=4)"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published samples are not here")
def test_every_published_frame_is_understood():
    paths = sorted(SAMPLES.glob("ws-docs-*.json")) + sorted(SAMPLES.glob("ws-php-*.json"))
    paths += sorted(SAMPLES.glob("ws-real*.json"))
    assert len(paths) >= 10
    for path in paths:
        published = json.loads(path.read_text())
        frame = decoded(path.read_bytes())
        assert frame.meta.type == published[0]["type"], path.name
        assert (json.loads(bytes(frame.body)) if frame.body else None) == (published[1:] or [None])[0], path.name


# ------------------------------------------------------------------------------------------------------- properties


@given(st.binary())
def test_arbitrary_bytes_raise_nothing(data):
    assert isinstance(frames.decode(data), Frame | BadFrame)


@given(json_values | frame_like)
def test_arbitrary_json_raises_nothing(value):
    assert isinstance(frames.decode(json.dumps(value).encode()), Frame | BadFrame)


@given(frame_like, st.data())
def test_a_frame_that_was_cut_or_changed_raises_nothing(value, data):
    text = json.dumps(value)
    place = data.draw(st.integers(0, len(text)))
    change = data.draw(st.text(max_size=3))
    end = data.draw(st.integers(place, len(text)))
    assert isinstance(frames.decode((text[:place] + change + text[end:]).encode("utf-8", "replace")), Frame | BadFrame)


def test_broken_utf_8_inside_the_meta_is_no_frame():
    assert "not UTF-8" in refused(b'[{"type":"\xff"}]').reason


def test_a_status_of_thousands_of_digits_is_none():
    assert decoded(b'[{"type":"X","messageId":1,"status":"' + b"9" * 5000 + b'"}]').meta.status == 0


# ------------------------------------------------------------------------------------------------ without looking twice

PLAIN = b'[{"type":"ServerNotification","messageId":"1","status":200,"headers":{"RCRequestId":"1"}},'


@pytest.mark.parametrize("body", [b'{"uuid":"1"}', b'{"a":"},{"}', b'{"a":[{},{}]}', b'{"a":{"b":[1]},"c":{}}'])
def test_what_follows_the_meta_element_of_a_notification_is_its_body(body):
    data = PLAIN + body + b"]"
    assert frames.notification_in(data) == body == bytes(frames.decode(data).body)


@pytest.mark.parametrize(
    "data",
    [
        b'[{"type":"Heartbeat","messageId":"1"},{"a":1}]',
        b'[{"type":"ServerNotification","wsc":{"token":"t","sequence":2}},{"a":1}]',
        b'[{"type":"ServerNotification","messageId":"},{"},{"a":1}]',
        b'[{"type":"ServerNotification","headers":{"a":[{},{}]}},{"a":1}]',
        b'[{"type":"ServerNotification"} , {"a":1}]',
        b'[{"type":"ServerNotification"}]',
        b'{{"type":"ServerNotification"},{"a":1}]',
        PLAIN + b'{"a":1}',
        PLAIN + b'{"a":1}] ',
        PLAIN + b"[]]",
        b"},{}]",
        b"",
    ],
)
def test_of_what_is_no_plain_notification_nothing_is_said(data):
    assert frames.notification_in(data) is None


@example(meta={}, rest=[{"": None}, {"": math.inf}])
@given(meta=metas, rest=st.lists(json_values, min_size=1, max_size=2))
def test_where_it_says_something_it_is_what_the_whole_frame_says(meta, rest):
    data = json.dumps([meta | {"type": "ServerNotification"}, *rest], separators=(",", ":")).encode()
    found, whole = frames.notification_in(data), frames.decode(data)
    if found is not None:
        assert isinstance(whole, Frame)
        assert whole.meta.wsc is None
        assert found.startswith(bytes(whole.body)), "the first of what follows"


@given(data=st.binary(max_size=100))
def test_it_never_raises(data):
    frames.notification_in(data)
    frames.notification_in(PLAIN + data)
