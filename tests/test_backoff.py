"""Delays after failures: the ladder, its end, its randomness."""

from __future__ import annotations

import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from rc_push.backoff import CONNECT_LADDER_S, delays_s

SPANS = st.tuples(st.floats(0, 100), st.floats(0, 100)).map(lambda span: (min(span), max(span)))


@given(st.lists(SPANS, min_size=1, max_size=8), st.integers())
def test_each_delay_lies_in_its_step_and_the_last_step_repeats(ladder, seed):
    delays = list(islice(delays_s(tuple(ladder), rng=random.Random(seed)), len(ladder) + 5))
    for delay, (low, high) in zip(delays, ladder + ladder[-1:] * 5, strict=True):
        assert low <= delay <= high


def test_the_first_attempt_after_a_failure_comes_after_one_second():
    assert next(delays_s()) == 1.0


def test_the_connection_ladder_climbs_to_two_minutes_and_stays_there():
    delays = list(islice(delays_s(rng=random.Random(1)), 50))
    assert delays[: len(CONNECT_LADDER_S)] == sorted(delays[: len(CONNECT_LADDER_S)])
    assert all(80.0 <= delay <= 120.0 for delay in delays[5:])


def test_the_same_seed_gives_the_same_delays():
    assert list(islice(delays_s(rng=random.Random(7)), 9)) == list(islice(delays_s(rng=random.Random(7)), 9))


def test_many_daemons_do_not_come_back_at_the_same_moment():
    assert len({list(islice(delays_s(), 3))[2] for _ in range(20)}) > 1
