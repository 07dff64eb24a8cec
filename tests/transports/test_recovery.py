"""Which events a recovered session hands over, and whether the server could keep them all."""

from __future__ import annotations

import pytest

from rc_push.envelope import Envelope, Source, iso_from_ms
from rc_push.transports.recovery import REPLAY_WITHIN_MS, Missing, Recovery

SOURCE = Source("main", "team", "websocket")
SINCE_MS, CONNECTED_AT_MS = 1_000_000, 1_010_000
KEPT = 100


def envelope(sent_at_ms):
    payload = b'{"uuid":"1","event":"/posts","timestamp":"%b"}' % iso_from_ms(sent_at_ms).encode()
    return Envelope("1", "post.added", payload, SOURCE, CONNECTED_AT_MS)


def recovery(rate_per_s=0.0):
    return Recovery(SINCE_MS, CONNECTED_AT_MS, KEPT, rate_per_s)


def test_all_that_comes_before_the_fence_was_kept():
    assert recovery().includes(envelope(CONNECTED_AT_MS + 5000), CONNECTED_AT_MS)


def test_behind_the_fence_the_time_of_sending_decides_for_a_while():
    ours = recovery()
    ours.is_fenced = True
    assert ours.includes(envelope(CONNECTED_AT_MS - 1), CONNECTED_AT_MS + 100)
    assert not ours.includes(envelope(CONNECTED_AT_MS), CONNECTED_AT_MS + 100)
    assert not ours.includes(envelope(CONNECTED_AT_MS - 1), CONNECTED_AT_MS + REPLAY_WITHIN_MS + 1)


def test_less_than_the_buffer_is_all_there_was():
    ours = recovery(1000.0)
    assert [ours.count(SINCE_MS + 1) for _ in range(KEPT - 1)] == [None] * (KEPT - 1)


@pytest.mark.parametrize(
    ("rate_per_s", "certainty"), [(0.0, "possible"), (10.0, "possible"), (19.9, "possible"), (20.0, "certain")]
)
def test_a_full_buffer_is_a_gap_up_to_its_first_and_certain_where_twice_as_many_must_have_come(rate_per_s, certainty):
    ours = recovery(rate_per_s)
    counted = [ours.count(SINCE_MS + 4000 + number) for number in range(KEPT + 5)]
    assert [missing for missing in counted if missing] == [Missing(SINCE_MS, SINCE_MS + 4000, certainty)]
    assert counted[KEPT - 1] is not None


def test_the_gap_never_ends_before_it_began_nor_after_the_connection():
    for first_ms, until_ms in (
        (SINCE_MS - 50, SINCE_MS),
        (CONNECTED_AT_MS + 50, CONNECTED_AT_MS),
        (None, CONNECTED_AT_MS),
    ):
        ours = recovery()
        (missing,) = [missing for missing in (ours.count(first_ms) for _ in range(KEPT)) if missing]
        assert missing.until_ms == until_ms


def test_where_our_clock_is_ahead_of_the_servers_the_gap_reaches_up_to_the_connection():
    ours = recovery()
    hour_before_ms = SINCE_MS - 3_600_000
    (missing,) = [missing for missing in (ours.count(hour_before_ms) for _ in range(KEPT)) if missing]
    assert (missing.since_ms, missing.until_ms) == (SINCE_MS, CONNECTED_AT_MS)
