"""What may be missing, by the queue and by the life of a subscription."""

from __future__ import annotations

import pytest

from rc_push.envelope import Gap
from rc_push.protocol.pubnub import QUEUE_MESSAGES, Answer, Message
from rc_push.transports.pubnub_gaps import QUEUE_MS, Gaps
from rc_push.transports.pubnub_state import Channel, State

NOW_MS = 1_795_000_000_000
GAPS = Gaps("team")


def told(gaps: list[Gap]) -> list[tuple[str, str, int, int | None]]:
    """Return what *gaps* say, with times relative to NOW_MS."""
    return [
        (gap.reason, gap.certainty, gap.since_ms - NOW_MS, None if gap.until_ms is None else gap.until_ms - NOW_MS)
        for gap in gaps
    ]


def answer(count: int, published_at_ms: int | None = NOW_MS - 50) -> Answer:
    return Answer("17950000000000000", 4, [Message("…", published_at_ms)] * count)


def channel(seen_at_ms: int) -> Channel:
    return Channel("a", "k", "17950000000000000", seen_at_ms=seen_at_ms)


def test_a_gap_is_never_the_wrong_way_round_and_may_be_open():
    gaps = [GAPS.gap(NOW_MS, until_ms, "…", "possible") for until_ms in (NOW_MS - 1, NOW_MS + 1, None)]
    assert [until_ms for *_, until_ms in told(gaps)] == [0, 1, None]


@pytest.mark.parametrize(
    ("away_ms", "count", "gaps"),
    [
        (QUEUE_MS, QUEUE_MESSAGES - 1, []),
        (QUEUE_MS + 1, 0, [("away for too long", "certain", -QUEUE_MS - 1, -QUEUE_MS)]),
        (1000, QUEUE_MESSAGES, [("queue full", "possible", -1000, -50)]),
    ],
)
def test_what_the_queue_cannot_have_kept_is_missing(away_ms, count, gaps):
    assert told(GAPS.before(channel(NOW_MS - away_ms), answer(count), NOW_MS, NOW_MS)) == gaps


@pytest.mark.parametrize("published_at_ms", [None, NOW_MS - 5000, NOW_MS + 5000])
def test_a_full_queue_that_does_not_say_since_when_may_miss_all_up_to_now(published_at_ms):
    (gap,) = told(GAPS.before(channel(NOW_MS - 1000), answer(QUEUE_MESSAGES, published_at_ms), NOW_MS, NOW_MS))
    assert gap == ("queue full", "possible", -1000, 0)


def test_where_no_subscription_was_known_all_since_then_is_missing():
    assert told(GAPS.between(State(), NOW_MS - 70, NOW_MS)) == [("no subscription known", "certain", -70, 0)]


@pytest.mark.parametrize(
    ("state", "ended_at_ms"),
    [
        (State(renewed_at_ms=NOW_MS - 900, expires_at_ms=NOW_MS - 300, ends_at_ms=NOW_MS - 200), -200),
        (State(renewed_at_ms=NOW_MS - 900, expires_at_ms=NOW_MS + 1, ends_at_ms=NOW_MS + 1), 0),
    ],
)
def test_a_subscription_may_have_ended_before_its_time_and_has_when_that_is_over(state, ended_at_ms):
    possible, *certain = told(GAPS.between(state, NOW_MS, NOW_MS))
    assert possible == ("subscription expired", "possible", -900, ended_at_ms)
    assert certain == ([("subscription expired", "certain", ended_at_ms, 0)] if ended_at_ms else [])
