"""Which events have come over both of two connections: by uuid in the journal, by a second key where uuids differ."""

from __future__ import annotations

import json
import pickle

from hypothesis import given
from hypothesis import strategies as st

from rc_push.envelope import Envelope, Source
from rc_push.transports.twins import WITHIN_MS, Twins, key_of

SOURCE = Source("main", "team", "websocket")


def envelope(uuid, body=None, type_="post.added", at_ms=0):
    body = {"id": "1", "lastModifiedTime": "t"} if body is None else body
    payload = json.dumps({"uuid": uuid, "event": "/posts", "body": body}).encode()
    return Envelope(uuid, type_, payload, SOURCE, at_ms)


def uuids(envelopes):
    return [each.uuid for each in envelopes]


def test_an_event_that_the_other_has_brought_under_another_uuid_is_a_twin():
    twins = Twins()
    assert uuids(twins.sift("old", [envelope("a")])) == ["a"]
    assert twins.sift("new", [envelope("b")]) == []


def test_it_has_one_twin_only():
    twins = Twins()
    twins.sift("old", [envelope("a")])
    assert uuids(twins.sift("new", [envelope("b"), envelope("c")])) == ["c"]


def test_two_that_say_the_same_over_one_connection_are_two_events():
    assert uuids(Twins().sift("old", [envelope("a"), envelope("b")])) == ["a", "b"]


def test_where_uuids_are_equal_on_both_the_second_key_does_not_count():
    twins = Twins()
    twins.sift("old", [envelope("a"), envelope("b")])
    assert uuids(twins.sift("new", [envelope("a")])) == ["a"], "the journal knows it"
    assert uuids(twins.sift("new", [envelope("c")])) == ["c"]


def test_twins_come_within_seconds_of_each_other():
    twins = Twins()
    twins.sift("old", [envelope("a", at_ms=0)])
    assert uuids(twins.sift("new", [envelope("b", at_ms=WITHIN_MS + 1)])) == ["b"]


def test_what_came_before_it_was_last_told_to_forget_is_forgotten_when_told_again():
    twins = Twins()
    twins.sift("old", [envelope("a")])
    twins.sift("new", [envelope("b")])
    twins.forget()
    assert twins.sift("new", [envelope("b")]) == [], "a twin that is sent again"
    twins.sift("old", [envelope("c", {"x": 1})])
    assert twins.sift("new", [envelope("d", {"x": 1})]) == []
    twins.sift("old", [envelope("e", {"x": 2})])
    twins.forget()
    twins.forget()
    assert uuids(twins.sift("new", [envelope("f", {"x": 2})])) == ["f"]


def test_what_it_keeps_does_not_grow_where_one_connection_brings_and_the_other_does_not():
    twins, sizes = Twins(), []
    for number in range(10, 100):
        twins.sift("old", [envelope(f"u-{number}", {"x": number})])
        twins.forget()
        sizes.append(len(pickle.dumps(twins)))
    assert sizes[-1] == sizes[2]


def test_an_edit_of_the_same_post_is_another_event():
    first, second = ({"id": "1", "lastModifiedTime": time} for time in ("t1", "t2"))
    assert key_of(envelope("a", first)) != key_of(envelope("b", second))
    assert key_of(envelope("a", first)) != key_of(envelope("b", first, type_="post.removed"))


def test_a_body_without_id_and_time_is_compared_whole_whatever_the_order_of_its_keys():
    assert key_of(envelope("a", {"x": 1, "y": 2})) == key_of(envelope("b", {"y": 2, "x": 1}))
    assert key_of(envelope("a", {"x": 1})) != key_of(envelope("b", {"x": 2}))
    assert key_of(envelope("a", [1])) != key_of(envelope("b", None))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40), st.booleans())
def test_however_two_connections_interleave_each_event_passes_once(order, is_same_uuid):
    """Both bring the same events, each in its own order; ids tell them apart."""
    twins, passed = Twins(), []
    for is_old, number in [*order, *((side, n) for side in (True, False) for n in range(6))]:
        side = "old" if is_old else "new"
        uuid = str(number) if is_same_uuid else f"{side}-{number}"
        passed += twins.sift(side, [envelope(uuid, {"id": str(number), "lastModifiedTime": "t"})])
    ids = [each.body["id"] for each in {each.uuid: each for each in passed}.values()]  # the journal takes uuids once
    assert sorted(ids) == [str(number) for number in range(6)]
