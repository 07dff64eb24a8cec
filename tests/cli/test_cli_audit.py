"""`audit`: every event is accounted for, or it says which sum is wrong and ends with 1."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest


def spoil(kept, sql):
    with closing(sqlite3.connect(kept.path, isolation_level=None)) as db:
        db.execute(sql)


def test_where_all_is_well_it_says_so_and_lists_the_gaps(kept, command):
    code, out, err = command("audit")
    assert (code, err) == (0, "")
    team, archive, crm, gap, verdict = out.splitlines()
    assert team == "✓ subscription team: received 6 = stored 6 + duplicate 0 + unreadable 0"
    assert archive == "✓ handler archive: stored 6 = delivered 6 + filtered 0 + parked 0 + dropped 0 + pending 0"
    assert crm == "✓ handler crm: stored 6 = delivered 2 + filtered 1 + parked 2 + dropped 0 + pending 1"
    assert gap.startswith("! gap ")
    assert gap.endswith("certain  team  no connection")
    assert verdict == "it adds up"


def test_only_gaps_that_reach_behind_since_are_listed(kept, command):
    assert "! gap" in command("audit", "--since", "90m")[1]
    assert "! gap" not in command("audit", "--since", "10m")[1]


def test_json_is_one_object_per_line_with_stable_keys(kept, command):
    code, out, _ = command("audit", "--json")
    team, _, crm, gap = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert team == {
        "subscription": "team",
        "received": 6,
        "stored": 6,
        "duplicate": 0,
        "unreadable": 0,
        "told": 0,
        "rows": 6,
        "difference": 0,
        "addsUp": True,
    }
    assert crm == {
        "handler": "crm",
        "stored": 6,
        "delivered": 2,
        "filtered": 1,
        "parked": 2,
        "dropped": 0,
        "pending": 1,
        "difference": 0,
        "addsUp": True,
        "offending": [],
    }
    assert gap["gap"]["reason"] == "no connection"


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("UPDATE handlers SET delivered = 7 WHERE name = 'crm'", "pending 1: -5 are missing from the counts"),
        ("UPDATE subscriptions SET received = 9", "unreadable 0: 3 are missing from the counts"),
        ("DELETE FROM unfinished WHERE position = 2", "pending 1: 1 are missing from the counts"),
        ("DELETE FROM events WHERE position = 2", "    rows without their event: 2"),
    ],
)
def test_what_does_not_add_up_is_told_and_ends_with_1(kept, command, sql, line):
    spoil(kept, sql)
    code, out, _ = command("audit")
    assert code == 1
    assert line in out
    assert out.endswith("it does not add up\n")
    assert command("audit", "--json")[0] == 1


def test_a_handler_beyond_the_journal_is_a_problem(kept, command):
    spoil(kept, "UPDATE handlers SET position = 99 WHERE name = 'archive'")
    code, _, err = command("audit")
    assert (code, err) == (1, "rc-push: handler archive is at 99, beyond the head 6\n")


def test_it_adds_up_beside_a_running_daemon(kept, command, eventually):
    with kept.daemon() as handed:
        command("handlers", "retry", "crm")
        eventually(lambda: len(handed["crm"]) == 2)
        assert command("audit")[0] == 0
