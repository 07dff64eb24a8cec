"""One event is one line, whatever it says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.envelope import Envelope, Source
from rc_push.handlers.lines import line_maker
from rc_push.templates import Template


def envelope(text: str = "Hello") -> Envelope:
    payload = json.dumps(
        {"uuid": "u-1", "event": "/posts", "timestamp": "2026-11-23T10:00:00Z", "body": {"text": text}}
    )
    return Envelope("u-1", "post.added", payload.encode(), Source("main", "team", "websocket"), 1_795_428_000_190, 7)


def test_the_usual_line_is_the_one_that_users_know():
    assert line_maker("ringcentral", None)(envelope()) == envelope().to_json() + b"\n"


def test_a_cloud_event_is_one_line_that_says_its_position():
    line = line_maker("cloudevents", None)(envelope("a\nb"))
    assert line.count(b"\n") == 1
    event = json.loads(line)
    assert (event["id"], event["type"], event["rcpushposition"]) == ("u-1", "com.ringcentral.post.added", "7")
    assert event["data"] == {"text": "a\nb"}


def test_a_text_is_what_the_template_says():
    assert line_maker("text", Template("{date} {type} {body.text}"))(envelope()) == b"2026-11-23 post.added Hello\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\n", rb"a\nb\r\n"),
        ("\x1b[2J\x07", rb"\x1b[2J\x07"),
        ("a\u2028b\u0085", rb"a\u2028b\x85"),
        ("a\tb", rb"a\tb"),
        ("a\u202eb\u2066", rb"a\u202eb\u2066"),
        ("Grüße \U0001f469\u200d\U0001f680", "Grüße \U0001f469\u200d\U0001f680".encode()),
    ],
)
def test_what_would_end_a_line_or_steer_a_terminal_stands_as_an_escape(text, line):
    assert line_maker("text", Template("{body.text}"))(envelope(text)) == line + b"\n"
    assert line_maker("text", Template("<\n{body.text}>"))(envelope(text)) == rb"<\n" + line + b">\n"


@given(st.text())
def test_any_text_is_one_line(text):
    line = line_maker("text", Template("{body.text}"))(envelope(text)).decode()
    assert line.splitlines(keepends=True) == [line]


def test_a_template_and_its_format_belong_together():
    with pytest.raises(ValueError, match="line is missing"):
        line_maker("text", None)
    with pytest.raises(ValueError, match='line is for format = "text"'):
        line_maker("ringcentral", Template("{type}"))
