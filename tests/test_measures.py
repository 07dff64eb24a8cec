"""How long does it take, and how many are there a minute? Counts against plain models of the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.measures import BOUNDS_S, MINUTE_S, Durations, PerMinute, Refusals


def test_a_duration_is_counted_once_below_the_first_bound_that_it_does_not_exceed():
    durations = Durations()
    for took_s in (0.0, BOUNDS_S[0], 0.003, 61.0, 9999.0):
        durations.add(took_s)
    known = durations.statistics()
    assert known.counts[0] == 2
    assert known.counts[BOUNDS_S.index(0.005)] == 1
    assert known.counts[-1] == 2
    assert known.count == 5
    assert known.sum_s == pytest.approx(0.0005 + 0.003 + 61 + 9999)


def test_what_was_told_does_not_change_afterwards():
    durations = Durations()
    known = durations.statistics()
    durations.add(1.0)
    assert known.count == 0


def test_a_minute_later_nothing_is_counted_any_more():
    per_minute = PerMinute()
    per_minute.add(5, 1000.9)
    assert per_minute.count(1059.9) == 5
    assert per_minute.count(1060.0) == 0


def test_a_clock_that_is_put_back_loses_nothing():
    per_minute = PerMinute()
    per_minute.add(5, 1000.0)
    per_minute.add(2, 400.0)
    assert per_minute.count(400.0) == 7


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 50))))
def test_it_counts_what_a_list_of_all_of_them_would(steps):
    per_minute, all_of_them, second = PerMinute(), [], 1000
    for passed, count in steps:
        second += passed
        per_minute.add(count, second + 0.5)
        all_of_them.append((second, count))
        expected = sum(count for at, count in all_of_them if at > second - MINUTE_S)
        assert per_minute.count(second + 0.5) == expected


def test_of_refusals_only_what_is_new_is_told():
    refusals = Refusals()
    assert refusals.news() == {}
    refusals["bad HTTP"] += 2
    refusals["host"] += 1
    assert refusals.news() == {"bad HTTP": 2, "host": 1}
    refusals["host"] += 1
    assert refusals.news() == {"host": 1}
    assert refusals.news() == {}
    assert refusals == {"bad HTTP": 2, "host": 2}
