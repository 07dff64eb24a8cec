"""Which events are still at hand?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.envelope import Envelope, Source
from rc_push.journal import recent as module
from rc_push.journal.recent import Recent

SOURCE = Source("main", "team", "websocket")


def events(*uuids, size=10):
    return [Envelope(str(u), "post.added", b'{"uuid":"%d","body":{}}' % u + b" " * size, SOURCE, 0) for u in uuids]


def positions(found):
    return None if found is None else [envelope.position for envelope in found]


def test_nothing_is_at_hand_at_first():
    assert Recent().after(0, 10) is None


def test_what_was_added_is_given_with_its_positions_from_any_place_that_is_at_hand():
    recent = Recent()
    recent.add(events(1, 2, 3), 43)
    assert positions(recent.after(40, 10)) == [41, 42, 43]
    assert positions(recent.after(41, 1)) == [42]
    assert positions(recent.after(43, 10)) == []
    assert recent.after(39, 10) is None


def test_a_hole_in_the_positions_forgets_what_was_before_it():
    recent = Recent()
    recent.add(events(1, 2), 2)
    recent.add(events(3), 4)
    assert recent.after(2, 10) is None
    assert positions(recent.after(3, 10)) == [4]


@pytest.mark.parametrize(("name", "bound"), [("RECENT_MAX_EVENTS", 3), ("RECENT_MAX_BYTES", 100)])
def test_it_is_bounded_and_the_oldest_go_first(monkeypatch, name, bound):
    monkeypatch.setattr(module, name, bound)
    recent = Recent()
    recent.add(events(*range(1, 11)), 10)
    assert recent.after(5, 10) is None
    assert positions(recent.after(8, 10)) == [9, 10]


def test_what_everybody_who_keeps_up_has_had_is_let_go():
    now = 0.0
    recent = Recent(lambda: now)
    for second in range(5):
        for part in range(4):
            now = second + part / 4
            recent.add(events(head := second * 4 + part + 1), head)
    # at 4.75 s: all of the last second is there, and nothing from two seconds ago
    assert positions(recent.after(15, 10)) == [16, 17, 18, 19, 20]
    assert recent.after(11, 10) is None
    now = 100.0
    recent.add(events(21), 21)
    now = 101.0
    recent.add(events(22, 23), 23)
    assert positions(recent.after(20, 10)) == [21, 22, 23]
    assert recent.after(19, 10) is None
    now = 102.0
    recent.add(events(24), 24)
    assert positions(recent.after(21, 10)) == [22, 23, 24]
    assert recent.after(20, 10) is None


def test_what_is_old_is_counted_anew_behind_a_hole():
    now = 0.0
    recent = Recent(lambda: now)
    recent.add(events(1, 2), 2)
    now = 1.0
    recent.add(events(9), 10)
    now = 2.0
    recent.add(events(10), 11)
    assert positions(recent.after(10, 10)) == [11]
    now = 3.0
    recent.add(events(11), 12)
    assert positions(recent.after(11, 10)) == [12]


def test_what_one_reader_does_to_a_body_no_other_sees():
    recent = Recent()
    recent.add(events(1), 1)
    [one], [other] = recent.after(0, 1), recent.after(0, 1)
    one.body["seen"] = True
    assert other.body == {}


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 60), st.integers(1, 10))
def test_whatever_is_added_the_answer_is_whole_or_none(sizes, position, limit):
    recent, head = Recent(lambda: 0.0), 0
    for size in sizes:
        head += size
        recent.add(events(*range(head - size + 1, head + 1)), head)
    found = positions(recent.after(position, limit))
    if head and position < head:
        assert found == list(range(position + 1, min(position + limit, head) + 1))
