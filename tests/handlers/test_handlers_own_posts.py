"""Posts of ours are known by their mark, or by what was sent; what people write is never taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rc_push.envelope import Envelope, Source
from rc_push.handlers.own_posts import MARK, REMEMBERED_MAX, OwnPosts


def event(body: Any) -> Envelope:
    payload = json.dumps({"uuid": "u-1", "event": "/x", "body": body}).encode()
    return Envelope("u-1", "post.added", payload, Source("main", "team", "websocket"), 0, 1)


def post(text: Any, **more: Any) -> Envelope:
    return event({"text": text, **more})


def test_a_post_with_the_mark_is_ours_whoever_of_us_has_sent_it():
    own = OwnPosts()
    assert own.include(post("New voicemail" + MARK))
    assert own.include(post("New voicemail" + MARK + " \n"))
    assert own.include(post(None, attachments=[{"type": "Card"}, {"type": "Card", "text": "New" + MARK}]))
    assert not own.include(post("New voicemail"))


def test_an_answer_that_quotes_ours_is_not_ours():
    assert not OwnPosts().include(post(f"> New voicemail{MARK}\nI call them back"))


def test_a_post_that_has_lost_its_mark_is_known_by_what_was_sent():
    own = OwnPosts()
    own.remember("New voicemail\nfrom  Ann", event({}))
    assert own.include(post("New voicemail from Ann"))
    assert own.include(post(" New voicemail\n\nfrom Ann "))
    assert not own.include(post("New voicemail from Bob"))


def test_a_text_that_only_repeats_its_event_may_be_said_again_by_a_person():
    own = OwnPosts()
    own.remember("Hello", post("Hello"))
    assert not own.include(post("Hello"))


def test_the_newest_are_remembered():
    own = OwnPosts()
    for number in range(REMEMBERED_MAX + 1):
        own.remember(f"voicemail {number}", event({}))
        own.remember("voicemail 0", event({}))
    assert own.include(post("voicemail 0"))
    assert not own.include(post("voicemail 1"))
    assert own.include(post(f"voicemail {REMEMBERED_MAX}"))


@pytest.mark.parametrize(
    "body",
    [
        *(None, 5, "text", [MARK], {}, {"text": 5}, {"text": [MARK]}, {"text": "", "attachments": {}}),
        *({"attachments": 5}, {"attachments": [None, MARK, {"text": {"text": MARK}}]}, {"subject": MARK}),
    ],
)
def test_events_of_any_form_are_none_of_ours(body):
    own = OwnPosts()
    own.remember("", event(body))
    assert not own.include(event(body))
