"""`rc-push journal`: what is told of a journal that is as it should be, and of one that is not."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from rc_push.__main__ import main
from rc_push.envelope import Batch, Envelope, Source, Unreadable
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.db"
    types = ("post.added", "sms.received")
    with closing(Store(path)) as store:
        with store.transaction():
            store.progress.register("file", None, 0)
        payload = b'{"uuid":"%d","event":"/x","body":{"text":"' + b"x" * 500 + b'"}}'
        events = [Envelope(str(n), types[n % 2], payload % n, SOURCE, 1_800_000_000_000 + n) for n in range(1, 11)]
        with store.transaction():
            store.append(Batch("team", events, [Unreadable(b"?", "why", SOURCE, 1)]))
            parked = Unfinished(2, "parked", False, "", 1, 1, 0, 0, None, "why")
            store.progress.save("file", Advance(8, delivered=7, unfinished={2: parked}))
    return path


@pytest.fixture
def run(path, tmp_path, capsys):
    config = tmp_path / "rc-push.toml"
    config.write_text(f'[journal]\npath = "{path}"\n')

    def run(*words):
        code = main(["-c", str(config), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def change(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_a_journal_that_is_as_it_should_be_is_said_to_be(run):
    assert run("journal", "check") == (0, "the journal is as it should be\n", "")
    assert run("journal", "check", "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE handlers SET position = 99", "a handler's position is beyond the newest event: file is at 99"),
        ("DELETE FROM events WHERE position = 2", "an event that waits or is parked is gone: file: 2"),
        ("INSERT INTO attempts VALUES (1, 77, 1, 0, 0, 'failed', '', '')", "for an event that is gone: 77"),
        ("UPDATE subscriptions SET stored = 1", "more events than were counted: team"),
        ("UPDATE sqlite_sequence SET seq = 5 WHERE name = 'events'", "an event is beyond the newest position: 6, 7"),
        ("INSERT INTO cursors VALUES (9, 'websocket', 0, x'', 0)", "a row of cursors (9) belongs to no subscriptions"),
    ],
)
def test_what_does_not_belong_together_is_told_with_its_remedy(run, path, statement, found):
    change(path, "PRAGMA foreign_keys = OFF", statement)
    code, out, _ = run("journal", "check")
    assert code == 1
    assert found in out
    lines = [json.loads(line) for line in run("journal", "check", "--json")[1].splitlines()]
    assert all(line["remedy"] for line in lines)


def test_damage_is_told(run, path):
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    code, out, err = run("journal", "check")
    assert code in (1, 74)
    assert "damaged" in err or "SQLite says" in out


def test_the_figures_are_those_of_the_journal(run, path):
    code, out, _ = run("journal", "stats", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["eventsAtMost"], found["head"], found["unreadables"], found["gaps"]) == (10, 10, 1, 0)
    assert found["oldest"] == "2027-01-15T08:00:00.001Z"
    assert found["subscriptions"] == [
        {"subscription": "team", "received": 11, "stored": 10, "duplicate": 0, "unreadable": 1}
    ]
    assert found["handlers"][0]["pending"] == 2
    assert 0 < found["liveBytes"] <= found["fileBytes"] + found["walBytes"]
    code, out, _ = run("journal", "stats")
    assert "events       at most 10" in out
    assert "handler      file: at 8  delivered 7" in out


def test_events_are_exported_as_handlers_get_them(run):
    code, out, err = run("journal", "export", "--since", "2027-01-15T08:00:00.003Z", "--type", "post.*")
    assert (code, err) == (0, "4 events\n")
    assert [json.loads(line)["uuid"] for line in out.splitlines()] == ["4", "6", "8", "10"]
    code, out, _ = run(
        "journal", "export", "--since", "2027-01-15T08:00:00.003Z", "--until", "2027-01-15T08:00:00.005Z"
    )
    assert [json.loads(line)["rcPush"]["position"] for line in out.splitlines()] == [3, 4]


def test_room_that_is_free_goes_back_to_the_disk(run, path):
    with closing(Store(path)) as store:
        big = [Envelope(f"b{n}", "other", b'{"x":"' + b"x" * 9000 + b'"}', SOURCE, 0) for n in range(300)]
        with store.transaction():
            for event in big:  # one by one they are in the database, not in segments
                store.append(Batch("team", [event]))
    change(path, "DELETE FROM events WHERE type = 'other'")
    before = path.stat().st_size
    code, _, err = run("journal", "compact")
    assert code == 0
    assert path.stat().st_size < before / 5
    assert "MB before" in err


def test_a_journal_in_use_is_not_compacted(run, path):
    with closing(Store(path)):
        code, _, err = run("journal", "compact")
    assert code == 74
    assert "another rc-push" in err


def test_where_there_is_no_journal_none_is_made(run, path):
    for part in ("", ".lock"):
        path.with_name(path.name + part).unlink()
    for words in (["check"], ["stats"], ["compact"], ["export", "--since", "1h"]):
        code, _, err = run("journal", *words)
        assert code == 74
        assert "there is no journal yet" in err
    assert not path.exists()


@pytest.mark.parametrize("since", ["999999999999999999999d", "99999999d", "999999999h", "²d"])
def test_a_time_before_all_time_is_no_time(run, since):
    code, out, err = run("journal", "export", "--since", since)
    assert (code, out, "is no time" in err) == (2, "", True)


@pytest.mark.parametrize("words", [("events",), ("unreadable",), ("parked",)])
def test_any_number_is_a_limit(run, words):
    assert run(*words, "--limit", "9" * 30)[0] == 0
