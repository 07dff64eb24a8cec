"""When a connection should give way to another: before its end, and where its silence is suspicious."""

from __future__ import annotations

import pytest

from rc_push.protocol.liveness import Rate
from rc_push.transports.lifetime import REPLACE_BETWEEN, SUSPICIOUS_MIN_S, Bounds, Lifetime

DAY_S = 86_400.0
EPOCH = 1_800_000_000.0
KEPT = 100
QUIET = Rate(0.0)


def begun(bounds=None, absolute_timeout_s=DAY_S):
    lifetime = Lifetime(bounds or Bounds())
    lifetime.begin(0.0, EPOCH, absolute_timeout_s)
    return lifetime


def test_it_ends_well_before_the_absolute_timeout_and_says_why():
    lifetime = begun()
    due_at = lifetime.due_at(QUIET, KEPT)
    assert REPLACE_BETWEEN[0] * DAY_S <= due_at <= REPLACE_BETWEEN[1] * DAY_S
    assert not lifetime.handle_timer(due_at - 1, QUIET, KEPT)
    assert lifetime.outlived == ""
    assert lifetime.handle_timer(due_at, QUIET, KEPT)
    assert lifetime.outlived == "its time is nearly over"


def test_many_that_begin_together_do_not_end_together():
    ends = sorted(begun().due_at(QUIET, KEPT) for _ in range(50))
    assert ends[-1] - ends[0] > 0.1 * DAY_S


def test_it_says_so_once():
    lifetime = begun()
    assert lifetime.handle_timer(DAY_S, QUIET, KEPT)
    assert not lifetime.handle_timer(DAY_S + 1, QUIET, KEPT)


def test_without_an_absolute_timeout_it_has_no_end():
    assert begun(absolute_timeout_s=0.0).due_at(QUIET, KEPT) == float("inf")


def test_the_end_of_its_oauth_session_comes_first_where_it_is_sooner():
    lifetime = begun(Bounds(replace_within=(EPOCH + 600.0, EPOCH + 700.0)))
    assert 600.0 <= lifetime.due_at(QUIET, KEPT) <= 700.0


def test_an_oauth_session_that_is_over_already_makes_it_due_at_once():
    assert begun(Bounds(replace_within=(EPOCH - 20.0, EPOCH - 10.0))).due_at(QUIET, KEPT) == 0.0


@pytest.mark.parametrize("rate_per_s", [10.0, 1000.0])
def test_silence_in_which_the_buffer_would_have_filled_is_suspicious_but_never_a_short_one(rate_per_s):
    lifetime, rate = begun(), Rate(0.0, rate_per_s)
    rate.add(1, 0.0)
    due_at = lifetime.due_at(rate, KEPT)
    assert SUSPICIOUS_MIN_S <= due_at < 20.0
    assert lifetime.handle_timer(due_at, rate, KEPT)
    assert lifetime.outlived == ""
    assert lifetime.suspicion.startswith(f"silent for {due_at:.0f} s after ")


def test_a_quiet_subscription_is_never_suspected():
    lifetime, rate = begun(), Rate(0.0)
    rate.add(5, 1.0)
    assert lifetime.due_at(rate, KEPT) > SUSPICIOUS_MIN_S * 100
