"""`handlers` and `parked`: how far each is, and what can be asked for, with a daemon and without one."""

from __future__ import annotations

import json

import pytest

from rc_push.journal.fates import handler_rows, parked_rows


def parked_positions(kept):
    return [one.row.position for one in kept.read(lambda db: list(parked_rows(db)))]


def row_of(kept, name="crm"):
    return next(row for row in kept.read(handler_rows) if row.handler == name)


# ------------------------------------------------------------------------------------------------------------ listing


def test_each_handler_is_a_line_with_its_counts(kept, command):
    code, out, err = command("handlers")
    assert (code, err) == (0, "")
    archive, crm = (line.split() for line in out.splitlines())
    assert archive == ["archive", "not", "running", "at", "6", "delivered", "6", "pending", "0"]
    assert crm[5:-3] == ["delivered", "2", "filtered", "1", "pending", "1", "waiting", "1", "parked", "2"]
    assert crm[-2:] == ["s", "behind"], "the one that waits for another call is not done with"


def test_json_is_one_object_per_handler_with_the_same_keys_with_a_daemon_and_without(kept, command):
    without = [json.loads(line) for line in command("handlers", "--json")[1].splitlines()]
    with kept.daemon():
        live = [json.loads(line) for line in command("handlers", "--json")[1].splitlines()]
    assert [set(one) for one in live] == [set(one) for one in without]
    assert [one["state"] for one in without] == ["not running"] * 2
    assert [one["state"] for one in live] == ["running"] * 2
    assert 59 < without[1]["lagS"] < 120
    assert without[1] | {"lagS": 0.0} == {
        "handler": "crm",
        "position": 6,
        "isPaused": False,
        "delivered": 2,
        "filtered": 1,
        "parked": 2,
        "dropped": 0,
        "pending": 1,
        "waiting": 1,
        "replays": 0,
        "lagS": 0.0,
        "state": "not running",
        "inHand": None,
        "lastError": None,
        "nextTryAtMs": None,
    }


def test_how_long_the_oldest_has_waited_is_told(kept, command):
    kept.change(lambda rows: rows.register("new", 2, 0))
    out = json.loads(command("handlers", "--json")[1].splitlines()[-1])
    assert (out["handler"], out["pending"]) == ("new", 4)
    assert 59 < out["lagS"] < 120


@pytest.mark.parametrize(
    "arguments",
    [
        ("handlers",),
        ("handlers", "pause", "crm"),
        ("handlers", "retry", "crm"),
        ("handlers", "forget", "old", "--yes"),
        ("parked",),
        ("parked", "drop", "crm", "--yes"),
        ("replay", "1", "--to", "crm"),
        ("audit",),
    ],
)
def test_without_a_journal_each_command_says_so_and_makes_none(empty, command, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (74, "")
    assert "`rc-push run` creates it" in err
    assert not empty.path.exists()


# ------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    "arguments", [("parked",), ("handlers", "retry", "crm"), ("parked", "drop", "crm", "--yes"), ("replay", "2")]
)
@pytest.mark.parametrize("where", ["nosuch(body)", "starts_with(body.text)"])
@pytest.mark.usefixtures("kept")
def test_an_expression_that_fails_for_every_event_is_a_mistake_on_the_command_line(command, arguments, where):
    code, _, err = command(*arguments, *(["--to", "crm"] if arguments[0] == "replay" else []), "--where", where)
    assert (code, "--where" in err, "Traceback" in err) == (2, True, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("parked",), "nothing is parked"),
        (("handlers", "retry", "crm"), "0 events of crm"),
        (("parked", "drop", "crm", "--yes"), "0 events dropped"),
    ],
)
def test_what_an_expression_cannot_be_applied_to_is_left_out_and_told_of(kept, command, arguments, says):
    code, _, err = command(*arguments, "--where", "contains(body.nothing, 'x')")
    assert (code, err.splitlines()[-1].startswith(says)) == (0, True)
    assert "2 events left out: where: contains() takes" in err
    assert row_of(kept).parked == 2


@pytest.mark.parametrize("is_live", [False, True])
def test_a_handler_is_paused_and_goes_on(kept, command, is_live):
    def both():
        code, _, err = command("handlers", "pause", "crm")
        assert (code, err) == (0, "crm is paused; its events wait: rc-push handlers resume crm\n")
        assert row_of(kept).is_paused
        assert "crm              paused" in command("handlers")[1]
        assert command("handlers", "resume", "crm")[0::2] == (0, "crm goes on\n")
        assert not row_of(kept).is_paused

    if is_live:
        with kept.daemon():
            both()
    else:
        both()


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ("handlers", "pause", "cmr"),
        ("handlers", "resume", "cmr"),
        ("handlers", "retry", "cmr"),
        ("handlers", "retry", "cmr", "--where", "true"),
        ("handlers", "forget", "cmr", "--yes"),
        ("handlers", "forget", "cmr", "--dry-run"),
        ("parked", "--handler", "cmr"),
        ("parked", "drop", "cmr", "--yes"),
        ("replay", "1", "--to", "cmr"),
    ],
)
def test_a_handler_that_nobody_knows_is_told_and_nothing_changes(kept, command, is_live, arguments):
    def ask():
        code, out, err = command(*arguments)
        assert (code, out) == (1, "")
        assert "there is no handler" in err

    if is_live:
        with kept.daemon():
            ask()
    else:
        ask()
    assert parked_positions(kept) == [2, 5]


@pytest.mark.parametrize(
    ("where", "left"), [(None, []), ("body.text == 'urgent'", [2]), ("rcPush.position == `2`", [5]), ("`1`", [2, 5])]
)
def test_what_is_parked_is_handed_over_again_at_the_next_start(kept, command, eventually, where, left):
    code, _, err = command("handlers", "retry", "crm", *(["--where", where] if where else []))
    count = 2 - len(left)
    assert (code, err) == (0, f"{count} event{'s' * (count != 1)} of crm will be handed over again\n")
    assert parked_positions(kept) == left
    with kept.daemon() as handed:
        eventually(lambda: set(handed["crm"]) == {2, 5} - set(left))


def test_a_running_daemon_hands_what_is_parked_over_again_at_once(kept, command, eventually):
    with kept.daemon() as handed:
        assert command("handlers", "retry", "crm", "--where", "body.text == 'urgent'")[0] == 0
        eventually(lambda: handed["crm"] == [5])
        assert command("handlers", "retry", "crm")[0] == 0
        eventually(lambda: handed["crm"] == [5, 2])
        eventually(lambda: row_of(kept).delivered == 4)
    assert handed["archive"] == []
    assert (row_of(kept).parked, row_of(kept).pending) == (0, 1)


def test_a_handler_is_forgotten_only_on_purpose_and_not_while_it_runs(kept, command):
    with kept.daemon():
        kept.take_out("crm")
        code, _, err = command("handlers", "forget", "crm")
        assert (code, "say --yes" in err) == (2, True)
        code, _, err = command("handlers", "forget", "crm", "--yes")
        assert code == 1
        assert "take it out of the file and reload first" in err
    assert row_of(kept).parked == 2
    assert command("handlers", "forget", "crm", "--yes")[0::2] == (0, "crm is forgotten\n")
    assert [row.handler for row in kept.read(handler_rows)] == ["archive"]


def test_what_would_be_forgotten_is_told_and_nothing_of_it_is(kept, command):
    kept.take_out("crm")
    told = "crm at position 6 would be forgotten, and 3 events that it has not finished\n"
    assert command("handlers", "forget", "crm", "--dry-run") == (0, "", told)
    assert command("handlers", "forget", "crm", "--dry-run", "--yes") == (0, "", told)
    assert "the handler archive is in the file" in command("handlers", "forget", "archive", "--dry-run")[2]
    assert (row_of(kept).parked, row_of(kept).pending) == (2, 1)


@pytest.mark.parametrize("more", ["", "enabled = false\n"])
def test_a_handler_that_is_in_the_file_is_not_forgotten_whether_it_runs_or_not(kept, command, more):
    kept.config.write_text(kept.config.read_text().replace("[handlers.crm]\n", f"[handlers.crm]\n{more}"))
    code, out, err = command("handlers", "forget", "crm", "--yes")
    assert (code, out) == (1, "")
    assert err == "rc-push: the handler crm is in the file; take it out of the file first, and reload\n"
    assert (row_of(kept).parked, row_of(kept).pending) == (2, 1)


def test_no_handler_is_forgotten_while_the_file_does_not_tell_which_there_are(kept, command):
    kept.take_out("crm")
    kept.config.write_text(f"{kept.config.read_text()}types = 7\n")
    code, _, err = command("handlers", "forget", "crm", "--yes")
    assert code == 78
    assert "crm is not forgotten: the file does not tell whether it is still there" in err
    assert "handlers.archive.types" in err
    assert row_of(kept).parked == 2


# ------------------------------------------------------------------------------------------------------------- parked


def test_what_is_parked_is_listed_with_its_reason_and_nothing_that_a_terminal_obeys(kept, command):
    code, out, err = command("parked")
    assert (code, err) == (0, "")
    first, second = (line.split() for line in out.splitlines())
    assert (first[0], second[0]) == ("2", "5")
    assert first[first.index("crm") + 1 :] == ["3", "attempts:", "no\\u001b", "ticket"]


def test_what_is_parked_in_json_has_stable_keys(kept, command):
    first = json.loads(command("parked", "--json")[1].splitlines()[0])
    keys = {"handler", "position", "attempts", "calls", "since", "parkedAt", "reason", "isReplay"}
    assert set(first) == keys
    assert (first["handler"], first["position"], first["calls"]) == ("crm", 2, 4)


@pytest.mark.parametrize(
    ("arguments", "positions", "notice"),
    [
        (("--handler", "archive"), [], "nothing is parked\n"),
        (("--handler", "crm"), [2, 5], ""),
        (("--where", "body.text == 'later'"), [2], ""),
        (("--limit", "1"), [2], "there are more; see --limit 10\n"),
        (("--limit", "2"), [2, 5], ""),
    ],
)
def test_the_list_can_be_narrowed(kept, command, arguments, positions, notice):
    code, out, err = command("parked", "--json", *arguments)
    assert (code, [json.loads(line)["position"] for line in out.splitlines()]) == (0, positions)
    assert err == ("" if not positions else notice)
    assert command("parked", *arguments)[2] == notice


@pytest.mark.parametrize("arguments", [("parked",), ("handlers", "retry", "crm"), ("parked", "drop", "crm", "--yes")])
def test_an_expression_that_is_none_is_a_mistake_in_the_command(kept, command, arguments):
    code, _, err = command(*arguments, "--where", "body.")
    assert (code, "--where" in err) == (2, True)
    assert parked_positions(kept) == [2, 5]


@pytest.mark.parametrize(
    ("arguments", "told", "written"),
    [
        (("parked", "--where", "`false`", "drop", "crm", "--yes"), "--where", "parked drop HANDLER --where …"),
        (("parked", "--handler", "archive", "drop", "crm", "--yes"), "--handler", "parked drop HANDLER"),
        (("parked", "--limit", "1", "--json", "drop", "crm", "--yes"), "--limit, --json", "parked drop HANDLER"),
        (("handlers", "--json", "retry", "crm"), "--json", "handlers retry NAME"),
    ],
)
def test_an_option_of_the_list_is_refused_before_what_would_not_heed_it(kept, command, arguments, told, written):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert f"Error: {told} before {arguments[-2 - ('--yes' in arguments)]} is for the list alone" in err
    assert err.endswith(f"; write: rc-push {written}\n")
    assert parked_positions(kept) == [2, 5]


@pytest.mark.parametrize("is_live", [False, True])
def test_what_is_dropped_is_gone_once_it_is_said_twice(kept, command, is_live):
    def drop():
        assert command("parked", "drop", "crm", "--dry-run")[0::2] == (0, "2 events would be dropped\n")
        assert command("parked", "drop", "crm")[0] == 2
        assert parked_positions(kept) == [2, 5]
        where = ("--where", "body.text == 'urgent'")
        assert command("parked", "drop", "crm", "--yes", *where)[0::2] == (0, "1 event dropped\n")
        assert parked_positions(kept) == [2]
        assert command("parked", "drop", "crm", "--yes")[0::2] == (0, "1 event dropped\n")

    if is_live:
        with kept.daemon():
            drop()
    else:
        drop()
    assert (row_of(kept).dropped, row_of(kept).parked, row_of(kept).pending) == (2, 0, 1)
    assert command("audit")[0] == 0


def test_what_a_handler_that_left_the_file_has_parked_can_be_dropped_while_a_daemon_runs(kept, command):
    kept.change(lambda rows: rows.register("old", 0, 0))
    with kept.daemon():
        assert command("parked", "drop", "old", "--yes")[0::2] == (0, "0 events dropped\n")
        assert command("handlers", "forget", "old", "--yes")[0] == 0
    assert "old" not in {row.handler for row in kept.read(handler_rows)}


@pytest.mark.parametrize("answer", [{}, None, 5])
def test_what_answers_with_no_handlers_is_no_daemon(kept, command, monkeypatch, answer):
    monkeypatch.setattr("rc_push.control.client.call", lambda *_: answer)
    code, out, err = command("handlers")
    assert (code, out) == (1, "")
    assert "what answers there is no daemon of this rc-push" in err
