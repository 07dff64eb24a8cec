"""An instant is told as the time of the place, with its date where that is not clear."""

from __future__ import annotations

import time

import pytest

from rc_push.local_time import local_time

EIGHT_UTC = 1_800_000_000.1239  # on 15 January 2027


@pytest.fixture(autouse=True)
def _two_hours_east(monkeypatch):
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("now_at", [None, EIGHT_UTC, EIGHT_UTC + 13 * 3600, EIGHT_UTC - 10 * 3600])
def test_a_time_of_today_has_no_date(now_at):
    assert local_time(EIGHT_UTC, now_at) == "10:00:00"


@pytest.mark.parametrize("now_at", [0.0, EIGHT_UTC + 14 * 3600, EIGHT_UTC - 11 * 3600])
def test_another_has_its_date_by_the_days_of_the_place(now_at):
    assert local_time(EIGHT_UTC, now_at) == "2027-01-15 10:00:00"


@pytest.mark.parametrize(("at", "date"), [(-(2.0**47), "0001-01-02"), (2.0**60, "9999-12-30")])
def test_a_time_that_no_calendar_has_is_told_as_a_day_at_its_end(at, date):
    assert local_time(at, 0.0).startswith(f"{date} ")


def test_it_can_have_milliseconds():
    assert local_time(EIGHT_UTC, 0.0, "milliseconds") == "2027-01-15 10:00:00.123"
