"""Is a leak found that somebody has put into the samples, and is none found where there is none?"""

from __future__ import annotations

import random

import pytest
from bounds import BOUNDS
from verdict import Bound, Point, Slope, block_means, judge, slope_of

EVERY_S = 5.0
LASTS_S, TROUBLES = 20.0, 15
RSS = next(bound for bound in BOUNDS if bound.name == "RSS")
DESCRIPTORS = next(bound for bound in BOUNDS if bound.name == "descriptors")
WAL = next(bound for bound in BOUNDS if bound.name == "WAL")


def samples(value, minutes=40.0, leak_per_h=0.0, noise=0.0, wave=0.0):
    """Return *minutes* of samples: *value*, its noise, a wave as the faults come round, and a leak."""
    rng = random.Random(7)
    points = []
    for number in range(int(minutes * 60 / EVERY_S)):
        at = number * EVERY_S
        trouble = int(at // LASTS_S) % TROUBLES
        height = value + rng.gauss(0, noise) + (wave if trouble < 3 else 0.0)
        points.append(Point(at, height + leak_per_h * at / 3600, str(trouble)))
    return points


def line(values):
    """Return what a trouble that comes each minute is like, with these *values*."""
    return [Point(60.0 * number, value) for number, value in enumerate(values)]


def test_a_process_that_only_breathes_is_flat():
    assert judge(RSS, samples(70.0, noise=1.0, wave=2.0)).complaint == ""
    assert judge(DESCRIPTORS, samples(30.0, noise=0.5, wave=3.0)).complaint == ""
    assert judge(WAL, samples(6.0, noise=0.1)).complaint == ""


def test_five_bytes_an_event_are_found():
    five_bytes_per_h = 5 * 500 * 3600 / 2**20
    found = judge(RSS, samples(70.0, leak_per_h=five_bytes_per_h, noise=1.0))
    assert found.complaint == "grows by 8.6 MiB an hour, may by 4.0"
    assert found.slope.per_h == pytest.approx(five_bytes_per_h, abs=3 * found.slope.error_per_h)


def test_a_descriptor_in_ten_minutes_is_found():
    leaking = [Point(point.at, 30.0 + point.at // 600, point.kind) for point in samples(30.0)]
    assert judge(DESCRIPTORS, leaking).complaint.startswith("grows by")


def test_a_write_ahead_log_that_is_never_begun_anew_is_found_by_its_size():
    assert judge(WAL, samples(4.0, leak_per_h=1000.0)).complaint == "was 669.3 MiB, may be 16.0 at the most"


def test_what_cannot_be_told_from_noise_is_not_called_flat():
    assert judge(RSS, samples(70.0, minutes=10, noise=30.0)).complaint.startswith(("cannot be told", "was"))
    assert judge(RSS, samples(70.0, minutes=3)).complaint == "too short a run to tell"


def test_a_peak_counts_even_where_it_passes():
    points = samples(70.0)
    points[100] = Point(points[100].at, 1000.0)
    assert judge(RSS, points).complaint.startswith("was 1000.0 MiB, may be ")


def test_a_line_is_found_exactly_and_without_an_error_where_there_is_nothing_else():
    slope = slope_of([Point(at, 3.0 + at / 1800) for at in range(0, 1200, 5)])
    assert slope.per_h == pytest.approx(2.0)
    assert slope.error_per_h == pytest.approx(0.0, abs=1e-9)
    assert slope_of([]) is None


def test_the_error_is_wider_where_minutes_hang_together():
    rng = random.Random(1)
    steps = [rng.gauss(0, 1) for _ in range(60)]
    alone = slope_of(line(steps))
    smooth = [sum(steps[max(0, number - 4) : number + 1]) for number in range(60)]
    together = slope_of(line(smooth))
    assert together.error_per_h > 2 * alone.error_per_h


def test_errors_hold_what_they_promise():
    """Of many runs without a leak, few have a slope beyond two of their errors."""
    rng = random.Random(3)
    beyond = 0
    for _ in range(200):
        slope = slope_of(line(rng.gauss(0, 1) for _ in range(40)))
        beyond += abs(slope.per_h) > 2 * slope.error_per_h
    assert beyond < 20


def test_what_a_trouble_does_each_time_is_no_growth_and_what_it_does_more_each_time_is():
    tidy = [1.0, 9.0, 50.0] * 8
    slope = slope_of([Point(60.0 * at, value, str(at % 3)) for at, value in enumerate(tidy[:-1])])
    assert slope == Slope(0.0, 0.0)
    worse = [value + (at // 3 if at % 3 == 2 else 0) for at, value in enumerate(tidy)]
    slope = slope_of([Point(60.0 * at, value, str(at % 3)) for at, value in enumerate(worse)])
    assert slope.per_h == pytest.approx(60 / 3 / 3, abs=0.1)


def test_a_mean_is_of_one_time_that_a_trouble_was_met():
    points = [Point(0.0, 1.0, "a"), Point(30.0, 3.0, "a"), Point(60.0, 5.0, "b"), Point(90.0, 7.0, "a")]
    assert block_means(points) == [Point(15.0, 2.0, "a"), Point(60.0, 5.0, "b"), Point(90.0, 7.0, "a")]
    assert block_means([]) == []


def test_every_bound_says_why():
    assert [bound.name for bound in BOUNDS if not bound.why] == []
    assert all(isinstance(bound, Bound) and bound.peak > bound.per_h > 0 for bound in BOUNDS)
    assert Slope(1.0, 0.5).error_per_h == 0.5
