"""Is a month judged as it has to be? And does a day of it pass, with real processes?"""

from __future__ import annotations

from dataclasses import replace

import month
import pytest
from month import KEPT_S, OWED, Day

DAY_MS = 1000
CALM = [
    Day(number, "", DAY_MS * number, DAY_MS * (number + 1), True, False, OWED, 1.0, 60.0) for number in range(1, 11)
]


def with_day(number, **changes):
    return [replace(day, **changes) if day.number == number else day for day in CALM]


def gap(since_ms, until_ms):
    return [("posts", (since_ms, until_ms), "connection lost")]


def test_a_calm_month_is_as_it_has_to_be():
    assert month.complaints_of(CALM, []) == []


def test_an_ordinary_day_has_no_gap():
    wrong = ["day 4, an ordinary one: a gap of posts, connection lost"]
    assert month.complaints_of(CALM, gap(4100, 4200)) == wrong
    assert month.complaints_of(with_day(4, is_busy=True), gap(4100, 4200)) == []
    assert month.complaints_of(with_day(4, event="connection reset"), gap(4100, 4200)) == []


def test_what_happened_may_show_until_the_next_day_and_no_longer():
    days = with_day(4, event="connection reset")
    assert month.complaints_of(days, gap(4900, 5100)) == []
    assert month.complaints_of(days, gap(6100, 6200)) == ["day 6, an ordinary one: a gap of posts, connection lost"]


def test_what_retention_has_to_remove_is_not_there():
    assert month.complaints_of(with_day(3, oldest_s=2 * KEPT_S), []) == [
        "day 3: the oldest event is 1728 s old, kept are 864 s"
    ]


@pytest.mark.parametrize("name", OWED)
def test_what_has_to_be_renewed_was(name):
    days = [replace(day, counts=OWED | {name: 0}) for day in CALM]
    [complaint] = month.complaints_of(days, [])
    assert complaint.startswith(f"{name}: 0 in 10 days")


@pytest.mark.e2e
@pytest.mark.alone
async def test_a_day_passes_and_adds_up(tmp_path):
    course, [day] = await month.play(1, tmp_path)
    assert course.told.complaints == []
    assert day.counts["sent"] > 50
    assert day.counts["oauth_refresh"] >= 1
    assert "| 1 |" in month.shown([day], course)
