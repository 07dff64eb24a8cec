"""How deep a text is nested is told exactly where it is JSON, and in linear time whatever it is."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.nesting import is_deeper_than

json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\a\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{}"\\', max_size=4), inner),
    max_leaves=20,
)


def depth_of(value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(json_values)
def test_the_depth_of_a_json_text_is_told_exactly_and_brackets_in_its_strings_are_none(value):
    text, depth = json.dumps(value).encode(), depth_of(value)
    assert not is_deeper_than(depth, text)
    assert not is_deeper_than(depth + 1, text)
    for levels in range(depth):
        assert is_deeper_than(levels, text), levels


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        (b"", 0),
        (b"7", 0),
        (b"[]", 1),
        (b"[[],[],{}]", 2),
        (b'[[[]],[],{"a":[]}]', 3),
        (b"{}" * 10, 1),
        (b'["[[["]', 1),
        (b'["\\"[",["]"]]', 2),
        (b'["\\\\",[[]]]', 3),
    ],
)
def test_what_is_closed_is_left_again(text, depth):
    assert is_deeper_than(depth - 1, text) or depth == 0
    assert not is_deeper_than(depth, text)


def test_a_text_without_brackets_enough_is_not_looked_at_more_closely(monkeypatch):
    monkeypatch.setattr("rc_push.nesting._STRING_OR_BRACKET", None)
    assert not is_deeper_than(5, b'[{"a":[]},[],"' + b"x" * 1000 + b'",{}]')


@pytest.mark.parametrize("text", [b'"' * 400_000 + b"[" * 20, b'["\\' * 200_000, b"[" * 20 + b'"\\x' * 200_000])
def test_what_is_no_json_takes_no_longer(text):
    began_at = time.process_time()
    is_deeper_than(10, text)
    assert time.process_time() - began_at < 5, "once for each beginning of a string, it would be minutes"
