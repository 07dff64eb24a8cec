"""Which events does a selection name, and is it the same after it was kept in the journal?"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc_push.dispatch.replay import Selection
from rc_push.envelope import Envelope, Source
from rc_push.errors import RoutingError

SOURCE = Source("main", "team", "fake")


def envelope(position, type_="post.added", payload=b'{"uuid":"u","body":{"text":"urgent"}}'):
    return Envelope("u", type_, payload, SOURCE, 0, position)


@pytest.mark.parametrize(
    ("selection", "matches"),
    [
        (Selection(), {1, 2, 3}),
        (Selection(frozenset({2, 9})), {2}),
        (Selection(frozenset()), set()),
        (Selection(types=("post.*",)), {1, 2}),
        (Selection(types=("sms.*", "fax.*")), {3}),
        (Selection(where="body.text == 'urgent'"), {1, 3}),
        (Selection(where="rcPush.position == `3`"), {3}),
        (Selection(frozenset({1, 3}), ("post.*",), "body.text == 'urgent'"), {1}),
    ],
)
def test_an_event_is_meant_where_position_type_and_where_all_say_so(selection, matches):
    events = [envelope(1), envelope(2, payload=b'{"body":{}}'), envelope(3, "sms.received")]
    assert {event.position for event in events if selection.matches(event)} == matches


def test_what_the_expression_cannot_be_applied_to_is_said():
    with pytest.raises(RoutingError):
        Selection(where="contains(body.text, 'x')").matches(envelope(1, payload=b'{"body":{"text":7}}'))


def test_the_position_decides_before_the_expression_is_asked():
    selection = Selection(frozenset({2}), where="contains(body.text, 'x')")
    assert not selection.matches(envelope(1, payload=b'{"body":{"text":7}}'))


@settings(deadline=None)
@given(
    positions=st.none() | st.frozensets(st.integers(0, 2**63 - 1)),
    types=st.lists(st.text()).map(tuple),
    where=st.none() | st.text(),
)
def test_it_comes_back_from_the_journal_as_it_was(positions, types, where):
    selection = Selection(positions, types, where)
    assert Selection.from_json(selection.to_json()) == selection


def test_all_of_a_span_takes_no_room_and_none_at_all_is_something_else():
    assert Selection().to_json() == "{}"
    assert Selection.from_json(Selection(frozenset()).to_json()).positions == frozenset()


@pytest.mark.parametrize("text", ["", "[]", '{"positions":["1"]}', '{"where":7}'])
def test_what_is_no_selection_is_not_taken_for_one(text):
    with pytest.raises(msgspec.DecodeError):
        Selection.from_json(text)
