"""`replay`: which events are handed over once more, by whom, and what is said of it."""

from __future__ import annotations

import json

import pytest

from rc_push.dispatch.replay import Selection
from rc_push.journal.fates import handler_rows


def replays(kept, name="crm"):
    return kept.change(lambda rows: rows.replays(name))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("2", "3"), "2 events for crm"),
        (("u5",), "1 event for crm"),
        (("5", "u5"), "1 event for crm"),
        (("--since", "1h"), "5 events for crm (1 event not: its rules are against it, see rc-push explain)"),
        (("--since", "1h", "--type", "group.*"), "0 events for crm (1 event not:"),
        (("--since", "1h", "--type", "sms.*", "--type", "post.*"), "5 events for crm"),
        (("--since", "1h", "--where", "body.text == 'later'"), "2 events for crm (1 event not:"),
        (("--since", "1h", "--until", "30m"), "0 events for crm"),
        (("4",), "0 events for crm (1 event not:"),
    ],
)
def test_what_would_be_handed_over_is_counted_first(kept, command, arguments, says):
    code, out, err = command("replay", *arguments, "--to", "crm", "--dry-run")
    assert (code, out) == (0, "")
    assert err.startswith(says)
    assert replays(kept) == []


def test_without_a_daemon_it_is_kept_for_the_next_start(kept, command, eventually):
    code, out, err = command("replay", "--since", "1h", "--to", "archive", "--type", "post.*", "--rate", "500")
    assert (code, out) == (0, "")
    assert err == "5 events for archive\nno daemon is running; they are handed over at its next start\n"
    (replay,) = replays(kept, "archive")
    assert (replay.position, replay.until, replay.rate) == (0, 6, 500.0)
    assert Selection.from_json(replay.selection) == Selection(types=("post.*",))
    with kept.daemon() as handed:
        eventually(lambda: len(handed["archive"]) == 5)
        eventually(lambda: kept.read(handler_rows)[0].replays == 0)
    assert handed["archive"] == [1, 2, 3, 5, 6]
    assert kept.read(handler_rows)[0].delivered == 6, "they were counted when they came first"


def test_a_running_daemon_hands_them_over_at_once_and_the_rules_apply(kept, command, eventually):
    with kept.daemon() as handed:
        code, _, err = command("replay", "1", "2", "3", "4", "6", "--to", "crm")
        assert code == 0
        assert err.endswith("they are being handed over; rc-push handlers shows how far crm is\n")
        eventually(lambda: handed["crm"] == [1, 2, 3])
        eventually(lambda: kept.read(handler_rows)[1].replays == 0)
    crm = kept.read(handler_rows)[1]
    assert (crm.delivered, crm.parked, crm.pending) == (3, 1, 1), "2 was parked; 6 waits for its own time"
    assert command("audit")[0] == 0


def test_where_nothing_is_meant_nothing_is_asked_for(kept, command):
    assert command("replay", "4", "--to", "crm")[0] == 0
    assert replays(kept) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "name events, or say --since"),
        (("1", "--since", "1h"), 2, "name events, or say --since"),
        (("1", "--until", "10m"), 2, "--until belongs to --since"),
        (("--since", "1h", "--where", "body."), 2, "--where"),
        (("--since", "1h", "--rate", "nan"), 2, "--rate"),
        (("--since", "1h", "--rate", "0"), 2, "--rate"),
        (("--since", "soon"), 2, "--since"),
        (("99",), 1, "no event 99 in the journal"),
        (("no-such\x1b",), 1, "no event no-such\\u001b in the journal"),
    ],
)
def test_what_cannot_be_is_told(kept, command, arguments, code, says):
    found, out, err = command("replay", *arguments, "--to", "crm")
    assert (found, out) == (code, "")
    assert says in err
    assert replays(kept) == []


def test_events_that_the_expression_cannot_be_applied_to_are_counted_as_not_meant(kept, command):
    _, _, err = command("replay", "--since", "1h", "--to", "crm", "--where", "abs(body.text) == `1`", "--dry-run")
    assert err.startswith("0 events for crm (6 events not:")


def test_the_handlers_line_tells_of_a_replay_that_is_not_over(kept, command):
    command("replay", "1", "--to", "crm")
    assert json.loads(command("handlers", "--json")[1].splitlines()[1])["replays"] == 1
