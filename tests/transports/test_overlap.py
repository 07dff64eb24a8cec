"""What two connections bring together, and what neither has brought."""

from __future__ import annotations

import json

import pytest

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source
from rc_push.transports.overlap import Overlap

SOURCE = Source("main", "team", "websocket")


def batch(*numbers, at_ms=0, cursor=None):
    envelopes = [
        Envelope(
            f"{number}",
            "post.added",
            json.dumps({"uuid": str(number), "event": "/posts", "body": {"n": number}}).encode(),
            SOURCE,
            at_ms,
        )
        for number in numbers
    ]
    return Batch("team", envelopes, cursor=cursor)


def overlap(confirmed_at_ms=1000, heard_at_ms=500):
    beside = Overlap(heard_at_ms)
    beside.confirmed_at_ms = confirmed_at_ms
    return beside


def test_twins_are_taken_out_and_counted():
    beside = overlap()
    beside.sift("old", batch(1))
    sifted = beside.sift("new", Batch("team", [_renamed(batch(1).envelopes[0]), *batch(2).envelopes]))
    assert [each.uuid for each in sifted.envelopes] == ["2"]
    assert (sifted.twins, sifted.received) == (1, 2)


def _renamed(envelope):
    return Envelope("other", envelope.type, envelope.payload, envelope.source, envelope.received_at_ms)


def test_one_that_was_closed_in_agreement_leaves_no_gap():
    last = Batch("team", cursor=Cursor("team", "websocket", 900, b"", is_clean=True))
    assert overlap().gaps(last, 400, "websocket", 2000) == []


def test_one_that_broke_off_leaves_one_from_what_it_was_seen_to_bring_to_the_others_beginning():
    assert overlap().gaps(Batch("team"), 400, "websocket", 2000) == [
        Gap("team", "websocket", 400, 1000, "connection lost", "possible")
    ]


def test_one_that_broke_off_after_the_other_had_begun_and_was_seen_to_bring_all_up_to_then_leaves_none():
    assert overlap().gaps(Batch("team"), 1500, "websocket", 2000) == []


@pytest.mark.parametrize(("at_ms", "is_deaf"), [(1500, True), (1050, False), (1950, False)])
def test_one_that_brought_nothing_while_the_other_did_was_deaf(at_ms, is_deaf):
    """Not at the edges: what one has just brought, the other is to bring."""
    beside = overlap()
    beside.sift("new", batch(1, at_ms=at_ms))
    last = Batch("team", cursor=Cursor("team", "websocket", 2000, b"", is_clean=True))
    gaps = beside.gaps(last, 400, "websocket", 2000)
    assert gaps == ([Gap("team", "websocket", 500, 1000, "connection was deaf", "possible")] if is_deaf else [])


@pytest.mark.parametrize(("seen_at_ms", "since_ms"), [(900, 500), (400, 400)])
def test_one_that_was_deaf_and_then_broke_off_leaves_one_gap_over_both(seen_at_ms, since_ms):
    """Its last answered Heartbeat proves nothing of the time in which it was deaf."""
    beside = overlap()
    beside.sift("new", batch(1, at_ms=1500))
    assert beside.gaps(Batch("team"), seen_at_ms, "websocket", 2000) == [
        Gap("team", "websocket", since_ms, 1000, "connection lost", "possible")
    ]


def test_one_that_brought_anything_meanwhile_was_not():
    beside = overlap()
    beside.sift("new", batch(1, at_ms=1500))
    beside.sift("old", batch(2, at_ms=1900))
    last = Batch("team", cursor=Cursor("team", "websocket", 2000, b"", is_clean=True))
    assert beside.gaps(last, 400, "websocket", 2000) == []
