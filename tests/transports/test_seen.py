"""How far has a transport seen?"""

from __future__ import annotations

import pytest

from rc_push.transports.seen import Watch, later


@pytest.mark.parametrize(
    ("known_ms", "shown_ms", "seen_ms"),
    [
        (500, 700, 700),
        (700, 500, 700),
        (1000, 700, 1000),
        (700, 1500, 1000),
        (1001, 700, 700),
        (3600, 1500, 1000),
    ],
)
def test_it_moves_on_and_never_ahead_of_the_clock_unless_that_was_put_back(known_ms, shown_ms, seen_ms):
    assert later(known_ms, shown_ms, now_ms=1000) == seen_ms


def test_a_clock_that_is_put_back_is_told_once_by_the_one_that_nobody_sets():
    watch = Watch(1_000_000, 50.0)
    looks = [(1_010_000, 60.0), (980_000, 70.0), (981_000, 71.0), (980_000, 73.0)]
    assert [watch.put_back_ms(*look) for look in looks] == [0, 40_000, 0, 3000]


def test_a_clock_that_goes_ahead_or_differs_by_the_time_between_two_readings_is_not_put_back():
    watch = Watch(1_000_000, 50.0)
    assert [watch.put_back_ms(*look) for look in [(4_600_000, 51.0), (4_600_800, 52.0), (4_601_600, 52.8)]] == [0] * 3
