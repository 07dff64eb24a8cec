"""How soon a lost contact has to be noticed, from the rate of events and what the server keeps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.protocol.liveness import Patience, Rate

KEPT, WINDOW_S = 100, 180.0


def deadline_s(rate_per_s, **more):
    return Patience(**more).deadline_s(buffer_size=KEPT, window_s=WINDOW_S, rate_per_s=rate_per_s)


@pytest.mark.parametrize(
    ("rate_per_s", "expected_s"), [(0.0, 60.0), (0.5, 60.0), (1.0, 50.0), (5.0, 10.0), (10.0, 5.0), (500.0, 5.0)]
)
def test_half_of_the_servers_buffer_may_fill_up_until_then(rate_per_s, expected_s):
    assert deadline_s(rate_per_s) == expected_s


def test_what_the_server_keeps_is_taken_from_its_own_numbers():
    patience = Patience()
    assert patience.deadline_s(buffer_size=20, window_s=180.0, rate_per_s=1.0) == 10.0
    assert patience.deadline_s(buffer_size=100, window_s=30.0, rate_per_s=0.0) == 10.0


def test_a_window_shorter_than_the_shortest_deadline_does_not_make_it_shorter():
    assert Patience().deadline_s(buffer_size=100, window_s=3.0, rate_per_s=0.0) == 5.0


@given(st.floats(0, 1e6), st.integers(0, 10_000), st.floats(0, 1e5))
def test_it_stays_between_its_bounds_whatever_the_server_says(rate_per_s, buffer_size, window_s):
    assert 5.0 <= Patience().deadline_s(buffer_size=buffer_size, window_s=window_s, rate_per_s=rate_per_s) <= 60.0


def test_a_steady_rate_is_found_soon_and_kept():
    rate = Rate(0.0)
    for tenth in range(1, 600):
        rate.add(2, tenth / 10)
        if tenth >= 60:
            assert rate.per_s(tenth / 10) == pytest.approx(20.0, rel=0.1)


def test_a_few_events_in_the_first_moments_make_no_rate():
    rate = Rate(0.0)
    rate.add(3, 0.01)
    assert rate.per_s(0.01) < 1.0


def test_what_was_known_before_counts_from_the_beginning():
    assert Rate(0.0, 40.0).per_s(0.0) == pytest.approx(40.0)


def test_a_rate_fades_in_silence():
    rate = Rate(0.0, 10.0)
    rate.add(1, 1.0)
    assert rate.per_s(61.0) < rate.per_s(31.0) < rate.per_s(1.0)


def test_silence_in_which_the_buffer_would_have_filled_is_the_shorter_the_higher_the_rate():
    assert Rate(0.0, 50.0).silence_s(KEPT) < Rate(0.0, 10.0).silence_s(KEPT) < 20.0


def test_silence_is_as_long_as_the_fading_rate_takes_for_so_many_events():
    assert Rate(0.0, 10.0).silence_s(150) == pytest.approx(30.0 * math.log(2)), "half of the 300 that it has in mind"
    assert Rate(0.0, 10.0).silence_s(300) == math.inf, "as many as would come in all eternity"
    assert Rate(0.0, 10.0).silence_s(0) == 0


def test_the_end_of_a_burst_that_would_never_have_filled_the_buffer_is_no_sign():
    assert Rate(0.0, 1.0).silence_s(KEPT) == math.inf
