"""`Pace` lets so many pass in any minute, and says when the next may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.handlers.pace import TICK_S, WINDOW_S, Pace


def test_so_many_pass_at_once_and_the_next_when_the_first_is_a_minute_old():
    pace = Pace(2)
    assert [pace.take(10.0), pace.take(11.0)] == [0.0, 0.0]
    assert pace.take(12.0) == pytest.approx(58.0)
    assert pace.take(69.0) == pytest.approx(1.0)
    assert pace.take(70.0) == 0.0
    assert pace.take(70.0) == pytest.approx(1.0)


def test_asking_in_vain_costs_nothing():
    pace = Pace(1)
    pace.take(0.0)
    for now in range(60):
        assert pace.take(float(now)) == pytest.approx(60.0 - now)
    assert pace.take(60.0) == 0.0


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=60))
def test_no_minute_has_more(per_minute, steps):
    pace, now, passed = Pace(per_minute), 0.0, []
    for step in steps:
        now += step
        if not pace.take(now):
            passed.append(now)
    for first, last in zip(passed, passed[per_minute:], strict=False):
        assert last - first >= WINDOW_S - 2 * TICK_S


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=60))
def test_who_waits_as_long_as_told_may_go(per_minute, steps):
    pace, now = Pace(per_minute), 0.0
    for step in steps:
        now += step
        if wait_s := pace.take(now):
            now += wait_s
            assert pace.take(now) == 0.0
