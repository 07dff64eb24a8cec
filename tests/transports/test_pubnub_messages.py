"""What is in a PubNub message, however strange: an envelope or an unreadable record, and never an end of the stream."""

from __future__ import annotations

import pytest

from rc_push.envelope import Source
from rc_push.protocol.pubnub import Message
from rc_push.transports.pubnub_messages import Opener

SOURCE = Source("main", "team", "pubnub")


def opened(*data):
    return Opener(SOURCE, []).open([Message(one, None) for one in data], 1000)


def test_half_an_emoji_in_a_message_that_is_not_encrypted_is_stored_as_it_was_said():
    ([envelope], unreadables, _) = opened({"uuid": "1", "event": "/x", "body": {"text": "\ud83d"}})
    assert b"\\ud83d" in envelope.payload
    assert envelope.body == {"text": "\ud83d"}
    assert not unreadables


@pytest.mark.parametrize("data", [["\ud83d"], {"\ud83d": 1}, "\ud83d", None, 1e999, {"uuid": 1e999, "event": "/x"}])
def test_what_is_no_envelope_is_kept_whatever_it_is(data):
    envelopes, [unreadable], _ = opened(data)
    assert not envelopes
    assert unreadable.reason


def test_one_that_is_too_deep_to_be_written_does_not_keep_the_others_out():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    envelopes, [unreadable], _ = opened({"uuid": "1", "event": "/x"}, {"a": deep}, {"uuid": "2", "event": "/x"})
    assert [envelope.uuid for envelope in envelopes] == ["1", "2"]
    assert unreadable.reason == "nested too deeply"
    while deep:  # else Python frees it by recursion
        deep = deep.pop()
