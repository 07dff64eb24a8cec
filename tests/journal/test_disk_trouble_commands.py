"""What do commands say of a journal that cannot be read or written? Why, in one line, and 74; then they work again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from sqlite_trouble import ERRORS, FOLDER, TOLD, sites_in, troubled
from test_disk_trouble import run_through, where_it_fails

import rc_push.journal.opening
from rc_push.__main__ import main
from rc_push.envelope import Batch, Envelope, Gap, Source, Unreadable
from rc_push.errors import EXIT_DOWN, EXIT_JOURNAL, EXIT_OK
from rc_push.journal.progress import Advance, Attempt, Unfinished
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
NOW_MS = 1_800_000_000_000
FILE = """
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.crm]
use = "log"
"""
COMMANDS = [
    "events",
    "events u1",
    "explain u1",
    "gaps",
    "unreadable",
    "handlers",
    "handlers pause crm",
    "handlers resume crm",
    "handlers retry crm",
    "handlers retry crm --where true",
    "handlers forget old --yes",
    "parked",
    "parked drop crm --yes",
    "replay --to crm u1",
    "replay --to crm --since 2026-01-01T00:00:00Z --until 2027-12-31T00:00:00Z",
    "audit",
    "journal check",
    "journal stats",
    "journal export --since 2026-01-01T00:00:00Z --until 2027-12-31T00:00:00Z",
    "journal compact",
    "tail",
]
# Places that no daemon and no command in this list comes to.
NOT_MET = {
    ("store.py", "Store.salvaging"): "a new journal, before any daemon uses it",
    ("store.py", "Store.tidy"): "of a start, which test_disk_trouble.py lets fail",
    ("reader.py", "Reader._payload"): "of a payload that goes while it is read, see test_segments.py",
    ("check.py", "_still_there"): "of a payload that is missing, see test_segments.py",
    ("reader.py", "Reader.oauth_session"): "of check --online, which asks RingCentral",
    ("reader.py", "Reader.rest_limits"): "of check --online, doctor and subscriptions, which ask RingCentral",
    ("reader.py", "Reader.created_subscriptions"): "of subscriptions, which asks RingCentral",
    ("reader.py", "Reader.cursors"): "of subscriptions, which asks RingCentral",
    ("reader.py", "Reader.webhooks"): "of webhooks and check --online, which ask RingCentral",
    ("retention.py", "make_room"): "under max_bytes, with the statements of prune",
}


@pytest.fixture
def trouble(monkeypatch):
    return troubled(monkeypatch)


@pytest.fixture
def command(tmp_path, capfd):
    """Return a function that runs a command on a copy of a journal that has something of everything.

    It returns the exit code, and what is told of mistakes, or (*shows*) what is shown.
    """
    original, path, config = tmp_path / "original.db", tmp_path / "journal.db", tmp_path / "rc-push.toml"
    fill(original)
    config.write_text(f"journal.path = '{path}'\n{FILE}")

    def command(text, *, is_fresh=True, shows=False):
        if is_fresh:
            shutil.copy(original, path)
        capfd.readouterr()
        code = main(["-c", str(config), *text.split()])
        printed = capfd.readouterr()
        return code, printed.out if shows else printed.err

    return command


def fill(path):
    events = [
        Envelope(f"u{n}", "post.added", json.dumps({"uuid": f"u{n}", "event": "/posts"}).encode(), SOURCE, NOW_MS)
        for n in range(1, 5)
    ]
    advance = Advance(3, delivered=2)
    advance.unfinished = {3: Unfinished(3, "parked", False, "", 3, 3, NOW_MS, NOW_MS, None, "no")}
    advance.attempts = [Attempt(3, 3, NOW_MS, 5, "rejected", "no")]
    gap = Gap("team", "websocket", NOW_MS, NOW_MS + 1, "no connection", "certain")
    garbage = Unreadable.of(b"garbage", "not JSON", SOURCE, NOW_MS)
    with closing(Store(path)) as store, store.transaction():
        store.progress.register("crm", None, 0)
        store.progress.register("old", None, 0)
        store.append(Batch("team", events, [garbage], gaps=[gap]))
        store.progress.save("crm", advance)


@pytest.mark.parametrize("text", COMMANDS)
def test_a_command_that_cannot_use_the_journal_says_why_and_ends_with_74(command, trouble, text):
    trouble.arm()
    assert command(text)[0] == EXIT_OK
    for kind in sorted(trouble.kinds):
        for error in ERRORS:
            with where_it_fails(f"{kind} ({error})"):
                trouble.arm(kind, error, 1 << 30)
                code, err = command(text)
                assert trouble.failed
                told = err.splitlines()[-1]
                assert (code, told.startswith("rc-push: "), TOLD[error] in told) == (EXIT_JOURNAL, True, True), err
        trouble.is_armed = False
        with where_it_fails(kind):
            assert command(text, is_fresh=False)[0] == EXIT_OK, "nothing of it has stayed"


@pytest.mark.parametrize("text", COMMANDS)
def test_a_journal_that_another_program_holds_is_told_as_such(command, tmp_path, monkeypatch, text):
    monkeypatch.setattr(rc_push.journal.opening, "BUSY_TIMEOUT_S", 0.01)
    assert command("gaps")[0] == 0
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        code, err = command(text, is_fresh=False)
    assert code == EXIT_JOURNAL
    assert err == (
        f"rc-push: {tmp_path}/journal.db: database is locked;"
        " another program holds it, and has to let it go (only rc-push may write it)\n"
    )


def test_status_tells_of_the_journal_beside_what_else_is_wrong(command, trouble):
    trouble.arm()
    assert command("status", shows=True)[0] == EXIT_DOWN
    for kind in sorted(trouble.kinds):
        for error in ERRORS:
            with where_it_fails(f"{kind} ({error})"):
                trouble.arm(kind, error, 1 << 30)
                code, shown = command("status", shows=True)
                assert (code, TOLD[error] in " ".join(shown.split())) == (EXIT_DOWN, True), shown


async def test_no_statement_is_left_out(command, trouble, tmp_path):
    """Whoever adds a statement adds what a daemon, or a command, needs it for."""
    await run_through(tmp_path / "first.db", trouble)
    trouble.arm()
    fill(tmp_path / "new.db")
    for text in COMMANDS:
        assert command(text)[0] == EXIT_OK
    assert command("status")[0] == EXIT_DOWN
    elsewhere = {"salvage.py", "rescue.py"}  # not in this journal
    modules = [path for path in sorted(FOLDER.glob("*.py")) if path.name not in elsewhere]
    sites = {site for path in modules for site in sites_in(path)}
    missed = {(site.module, site.function) for site in sites if not site.is_met(trouble.frames)}
    assert missed == set(NOT_MET)
