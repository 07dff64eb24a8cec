"""The commands `events` and `unreadable`: what is listed, and how it is told."""

from __future__ import annotations

import re
import time
from contextlib import closing

import pytest

from rc_push.cli.show import time_of_day
from rc_push.envelope import Batch, Source, Unreadable
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.store import Store

A_DAY_MS = 86_400_000
LONG_AGO = re.compile(r"(1969-12-31|1970-01-01) \d\d:\d\d:\d\d\.\d\d\d  ")


@pytest.mark.parametrize("option", [("--since", "1h"), ("--type", "*"), ("--limit", "20")])
def test_what_chooses_among_events_is_refused_beside_the_id_of_one(kept, command, option):
    code, out, err = command("events", "1", *option)
    assert (code, out) == (2, "")
    assert "leave them out, or the ID" in err
    assert command("events", *option)[0] == 0
    assert command("events", "1", "--json")[0] == 0


@pytest.mark.parametrize("words", [("events", "\udcff"), ("replay", "\udcff", "--to", "crm")])
def test_an_id_that_is_no_text_is_that_of_no_event(kept, command, words):
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert "no event \\udcff in the journal" in err


def test_a_type_that_is_no_text_is_that_of_no_event(kept, command):
    assert command("events", "--type", "\udcff") == (0, "", "no such events are stored\n")


def test_what_is_not_of_today_is_told_with_its_date(kept, command):
    with closing(Store(kept.path)) as store, store.transaction():
        source = Source("main", "team", "websocket")
        store.append(Batch("team", unreadables=[Unreadable(b"?", "no JSON", source, 1)]))
        advance = Advance(6)
        advance.unfinished = {2: Unfinished(2, "parked", False, "", 3, 4, 1, 1, None, "no")}
        store.progress.save("crm", advance)
    for words in (["unreadable"], ["events", "2"], ["parked", "--limit", "1"]):
        assert LONG_AGO.search(command(*words)[1]), words


def test_what_is_of_today_is_told_with_its_time_alone():
    now_ms = round(time.time() * 1000)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d", time_of_day(now_ms))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d\d", time_of_day(now_ms + A_DAY_MS))
