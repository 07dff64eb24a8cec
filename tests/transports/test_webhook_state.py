"""How far has a webhook seen? Each event is a post of its own, and some are late."""

from __future__ import annotations

import msgspec
import pytest

from rc_push.envelope import Envelope, Source, iso_from_ms
from rc_push.payload import envelope_from_payload
from rc_push.transports.webhook_state import LATE_MEMORY_MS, ORDER_SLACK_MS, Seen

NOW_MS = 1_795_000_000_000
SOURCE = Source("main", "team", "webhook")


@pytest.fixture
def seen() -> Seen:
    """It has seen nothing for ten minutes, and its clock is far ahead of all that these tests hear."""
    one = Seen(None, lambda: NOW_MS / 1000 + 3600)
    one.move(NOW_MS - 600_000)
    return one


def event(came_ms: int, late_ms: int = 0, **fields: object) -> Envelope:
    payload = {"uuid": "u", "event": "/e", "timestamp": iso_from_ms(came_ms - late_ms), "body": {}} | fields
    found = envelope_from_payload(msgspec.json.encode(payload), SOURCE, came_ms)
    assert isinstance(found, Envelope)
    return found


def test_what_was_sent_a_second_before_the_last_event_came_is_there(seen):
    seen.hear([event(NOW_MS - 5), event(NOW_MS)])
    assert seen.at_ms == NOW_MS - ORDER_SLACK_MS


def test_as_late_as_one_was_others_may_be_for_a_minute(seen):
    seen.hear([event(NOW_MS - 10, late_ms=7000), event(NOW_MS, late_ms=20)])
    assert seen.at_ms == NOW_MS - ORDER_SLACK_MS - 7000
    seen.hear([event(NOW_MS + LATE_MEMORY_MS)])
    assert seen.at_ms == NOW_MS + LATE_MEMORY_MS - ORDER_SLACK_MS - 7000
    seen.hear([event(NOW_MS + LATE_MEMORY_MS + 1)])
    assert seen.at_ms == NOW_MS + LATE_MEMORY_MS + 1 - ORDER_SLACK_MS


def test_ringcentral_has_reached_us_when_it_sent_what_came_late_and_not_when_that_came(seen):
    """A process that was held up finds posts in its sockets for which RingCentral has long ceased to wait."""
    seen.hear([event(NOW_MS, late_ms=20_000)])
    assert seen.heard_at_ms == NOW_MS - ORDER_SLACK_MS - 20_000


def test_a_late_one_takes_nothing_back(seen):
    seen.hear([event(NOW_MS)])
    seen.hear([event(NOW_MS + 1, late_ms=30_000)])
    assert seen.at_ms == NOW_MS - ORDER_SLACK_MS


@pytest.mark.parametrize("timestamp", [None, "soon", iso_from_ms(NOW_MS + 3_600_000)])
def test_a_time_that_cannot_be_is_no_lateness(seen, timestamp):
    seen.hear([event(NOW_MS, timestamp=timestamp)])
    assert seen.at_ms == NOW_MS - ORDER_SLACK_MS


def test_how_late_they_are_is_seen_also_by_a_clock_that_is_behind(seen):
    behind_ms = 3_600_000
    seen.hear([event(NOW_MS - 500, late_ms=-behind_ms)])
    seen.hear([event(NOW_MS, late_ms=7000 - behind_ms)])
    assert seen.at_ms == NOW_MS - 500 - ORDER_SLACK_MS, "what was on its way since then may be missing, and no less"
    seen.hear([event(NOW_MS + 8000, late_ms=7000 - behind_ms)])
    assert seen.at_ms == NOW_MS + 8000 - ORDER_SLACK_MS - 7000


def test_how_late_they_were_before_the_clock_was_put_back_is_forgotten(seen):
    seen.hear([event(NOW_MS + 600_000, late_ms=7000)])
    seen.at_ms = NOW_MS - 600_000
    seen.hear([event(NOW_MS)])
    assert seen.at_ms == NOW_MS - ORDER_SLACK_MS
