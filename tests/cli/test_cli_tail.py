"""The command that shows events as they come, with a journal made by hand; the daemon is a thread."""

from __future__ import annotations

import json
import re
import threading
from contextlib import closing

import click
import pytest

from rc_push.cli import Settings, tail
from rc_push.cli.show import SUMMARY_MAX_LENGTH, event_lines, json_line
from rc_push.control.server import ControlServer
from rc_push.envelope import Batch, Envelope, Source, envelope_to_dict
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
EVIL = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202eabc\u200b \U000e0041 end"


def positions(out):
    return [int(line.split()[0]) for line in out.splitlines() if re.match(r" *\d+  \d\d:", click.unstyle(line))]


def evil_event(position=7):
    payload = json.dumps(
        {"uuid": "e", "event": "/x", "body": {"text": EVIL, "from": {"name": EVIL}}}, ensure_ascii=False
    )
    return Envelope("e", "post.added", payload.encode(), SOURCE, 1000, position)


def test_the_newest_are_shown_oldest_first(kept, command):
    code, out, _ = command("tail", "-n", 3)
    assert code == 0
    assert positions(out) == [4, 5, 6]
    assert positions(command("tail")[1]) == [1, 2, 3, 4, 5, 6]
    assert command("tail", "-n", 0)[1] == ""


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["--types", "group.*"], [4]),
        (["--types", "group.*", "--types", "post.*", "-n", "2"], [5, 6]),
        (["--events", "*/posts", "--where", "body.text == 'urgent'"], [1, 3, 5]),
        (["--subscriptions", "calls"], []),
    ],
)
def test_it_chooses_as_a_handlers_rules_do(kept, command, rules, expected):
    assert positions(command("tail", *rules)[1]) == expected


def test_json_is_a_line_for_each(kept, command):
    lines = [json.loads(line) for line in command("tail", "--json")[1].splitlines()]
    assert [line["rcPush"]["position"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_what_is_private_is_hidden_where_it_is_asked_for(kept, command):
    _, out, _ = command("tail", "--redact", "--json")
    texts = [json.loads(line)["body"]["text"] for line in out.splitlines()]
    assert "urgent" not in out
    assert len(set(texts)) == 2
    assert texts[0] == texts[2] == texts[4]


def test_what_cannot_be_judged_is_told(kept, command):
    code, out, err = command("tail", "--where", "body.text > `1`", "-n", "1")
    assert (code, out) == (0, "")
    assert "the event 6 cannot be judged" in err


def test_a_mistake_in_where_is_one_of_the_command_line(kept, command):
    assert command("tail", "--where", "body.(")[0] == 2


def test_without_a_journal_there_is_nothing_to_show(empty, command):
    code, out, err = command("tail")
    assert (code, out) == (74, "")
    assert "there is no journal yet" in err


def test_nothing_that_a_terminal_obeys_is_shown():
    for line in (*event_lines(evil_event()), json_line(evil_event())):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\u200b\U000e0041]", click.unstyle(line))
    assert json.loads(json_line(evil_event()))["body"]["text"] == EVIL


def test_a_long_text_has_a_second_line_and_so_have_people():
    payload = {"uuid": "e", "event": "/x", "body": {"text": "word " * 30, "groupId": "99", "from": {"name": "Anna"},
               "to": [{"phoneNumber": "+1"}, {"extensionNumber": "101"}, "x", {}]}}  # fmt: skip
    event = Envelope("e", "post.added", json.dumps(payload).encode(), SOURCE, 1000, 7)
    first, second = map(click.unstyle, event_lines(event))
    assert first.endswith("…")
    assert len(first) < 120 + SUMMARY_MAX_LENGTH
    assert second.strip().split("  ") == ["from Anna", "to +1, 101", "chat 99", ("word " * 30).strip()[:160]]


@pytest.mark.parametrize("body", [None, [], "x", {"parties": [None]}, {"from": None, "to": [[]]}, {"parties": []}])
def test_an_event_of_any_form_is_one_line_or_two(body):
    payload = json.dumps({"uuid": "e", "event": "/x", "body": body}).encode()
    assert len(event_lines(Envelope("e", "other", payload, SOURCE, 1000, 7))) == 1


class Daemon:
    """Answers `tail` with one event behind the position asked for, then ends; the third one ends the command, too."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.asked = []
        self.waits = []
        monkeypatch.setattr(tail.time, "sleep", self.wait)

    def wait(self, delay_s):
        self.waits.append(delay_s)
        if len(self.asked) == 3:
            raise KeyboardInterrupt

    async def tail(self, fields):
        self.asked.append(fields)
        if len(self.asked) == 2:
            yield {"position": fields["after"] + 1, "why": "where: cannot be evaluated"}
        else:
            yield {"event": envelope_to_dict(evil_event(fields["after"] + 1))}

    def run(self, started):
        import asyncio

        async def serve():
            async with ControlServer(self.path, {"tail": self.tail}):
                started.set()
                await self.stopped.wait()

        with asyncio.Runner() as runner:
            self.stopped = asyncio.Event()
            self.loop = runner.get_loop()
            runner.run(serve())


def test_it_goes_on_where_it_was_when_a_daemon_comes_back(kept, command, tmp_path, monkeypatch):
    daemon = Daemon(Settings(kept.config).control_path(), monkeypatch)
    started = threading.Event()
    thread = threading.Thread(target=daemon.run, args=(started,))
    thread.start()
    assert started.wait(10)
    try:
        code, out, err = command("tail", "-f", "-n", "1", "--types", "post.*")
    finally:
        daemon.loop.call_soon_threadsafe(daemon.stopped.set)
        thread.join()
    assert code == 130
    assert [fields["after"] for fields in daemon.asked] == [6, 7, 8]
    assert daemon.asked[0]["types"] == ["post.*"]
    assert positions(out) == [6, 7, 9]
    assert "the event 8 cannot be judged" in err
    assert "\x1b[2J" not in out


def test_a_daemon_that_is_not_there_is_waited_for_and_told_once(empty, command, monkeypatch):
    waits = []

    def wait(delay_s):
        waits.append(delay_s)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tail.time, "sleep", wait)
    code, _, err = command("tail", "-f")
    assert code == 130
    assert err.count("no daemon is running") == 1


def test_a_journal_of_many_events_is_looked_through_up_to_a_number(kept, command, monkeypatch):
    monkeypatch.setattr(tail, "LOOKED_AT_MAX", 3)
    monkeypatch.setattr(tail, "READ_AT_ONCE", 1)
    with closing(Store(kept.path)) as store, store.transaction():
        store.append(Batch("team", [evil_event()]))
    assert positions(command("tail", "--types", "*")[1]) == [5, 6, 7]
