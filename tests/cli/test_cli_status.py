"""The command that tells how everything stands: of a daemon's document, from the journal, and as text."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from rc_push.cli import status as module
from rc_push.cli.advice import actions_for
from rc_push.cli.status_text import status_lines
from rc_push.errors import ControlError, NoAnswer, NotRunning

NOW = 1_800_000_000.0


def subscription(name="team", state="live", **fields):
    return {
        "subscription": name, "transport": "websocket", "state": state, "why": "confirmed", "isFinal": False,
        "since": "2027-01-15T05:48:00.000Z", "nextTryAt": None, "stored": 2711, "duplicate": 2, "unreadable": 0,
        "isServed": True, "perMinute": 14, "lastEventAt": "2027-01-15T07:59:57.000Z",
    } | fields  # fmt: skip


def handler(name="crm", state="running", **fields):
    return {
        "handler": name, "state": state, "position": 5, "delivered": 4, "pending": 0, "waiting": 0, "parked": 0,
        "dropped": 0, "lagS": 0.0, "inHand": 0, "failures": 0, "lastError": "", "nextTryAt": None,
    } | fields  # fmt: skip


def document(**fields):
    """Return what a daemon answers."""
    return {
        "state": "ok", "reasons": [], "isReady": True, "at": "2027-01-15T08:00:00.000Z",
        "daemon": {"version": "0.1.0", "pid": 4711, "startedAt": "2027-01-12T05:59:00.000Z"},
        "config": {"path": "/c.toml", "fingerprint": "f1a2", "generation": 2, "loadedAt": None, "mistake": ""},
        "accounts": [{"account": "main", "ownerId": "401", "tokenExpiresAt": "2027-01-15T08:41:10.000Z", "calls": 2,
                      "logins": 1, "refreshes": 0, "rateLimited": 3, "unreachable": 0,
                      "budget": {"auth": {"limit": 5, "left": 3, "silenceS": 12.0}}}],
        "subscriptions": [subscription()],
        "handlers": [handler()],
        "events": {"head": 5, "oldestAt": "2027-01-15T06:00:00.000Z", "newestAt": None, "lastMinute": 2, "lastHour": 4},
        "gaps": {"open": 0, "lastDay": 0, "openOnes": []},
        "journal": {"path": "/j.db", "state": "ok", "why": "", "liveBytes": 3_100_000, "maxBytes": None,
                    "diskFreeBytes": 78_400_000_000, "diskBytes": 100_000_000_000},
    } | fields  # fmt: skip


@pytest.fixture
def answers(monkeypatch):
    """Let the daemon answer with what is appended, again and again with the last one; an exception is raised."""
    answers = []

    def call(_path, op, **_options):
        assert op == "status"
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("rc_push.control.client.call", call)
    return answers


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("degraded", 1), ("down", 3)])
def test_the_exit_code_is_that_of_the_state(kept, command, answers, state, code):
    answers.append(document(state=state))
    assert command("status")[0] == code
    done = command("status", "--json")
    assert done[0] == code
    assert json.loads(done[1]) == document(state=state) | {"isRunning": True, "actions": []}


def test_without_a_daemon_it_tells_what_the_journal_knows(kept, command):
    code, out, _ = command("status", "--json")
    found = json.loads(out)
    assert (code, found["state"], found["isReady"], found["daemon"]) == (3, "down", False, None)
    assert not found["isRunning"]
    assert "no daemon is running" in found["reasons"][0]
    assert {one["handler"]: (one["state"], one["parked"]) for one in found["handlers"]} == {
        "archive": ("not running", 0),
        "crm": ("not running", 2),
    }
    assert found["subscriptions"] == [
        {"subscription": "team", "state": "not running", "received": 6, "stored": 6, "duplicate": 0, "unreadable": 0}
    ]
    assert found["events"]["head"] == 6
    assert found["gaps"]["lastDay"] == 1
    code, out, _ = command("status")
    assert code == 3
    assert "not at work" in out
    assert "rc-push handlers retry crm" in out


def test_without_a_daemon_and_a_journal_it_is_down_too(empty, command):
    code, out, _ = command("status", "--json")
    found = json.loads(out)
    assert (code, found["state"], found["handlers"], found["journal"]) == (3, "down", [], {})
    assert "there is no journal yet" in found["reasons"][1]
    assert command("status")[0] == 3


def test_a_daemon_that_does_not_answer_is_down(kept, command, answers):
    answers.append(NoAnswer("the daemon does not answer within 5 s"))
    code, out, _ = command("status", "--json")
    found = json.loads(out)
    assert (code, found["reasons"]) == (3, ["the daemon does not answer within 5 s"])
    assert (found["isRunning"], found["daemon"]) == (True, None), "it has not ended"
    shown = command("status")[1]
    assert shown.startswith("down  rc-push does not answer; this is what the journal says")
    assert "  rc-push does not answer: systemctl restart rc-push" in shown
    assert "has ended" not in shown


def test_a_daemon_that_may_not_be_asked_is_an_error(kept, command, answers):
    answers.append(ControlError("the socket is for the user of the running daemon"))
    code, out, err = command("status")
    assert (code, out) == (1, "")
    assert "is for the user" in err


@pytest.mark.parametrize("answer", [{}, [], None, {"state": "ok", "isReady": True}])
def test_what_answers_with_no_document_of_ours_is_no_daemon(kept, command, answers, answer):
    answers.append(answer)
    code, out, err = command("status")
    assert (code, out) == (1, "")
    assert "what answers there is no daemon of this rc-push" in err


def test_a_paused_handler_is_told_without_a_daemon(kept, command):
    kept.change(lambda rows: rows.pause("crm", is_paused=True))
    assert "rc-push handlers resume crm" in command("status")[1]


def test_it_waits_until_all_is_ready_or_for_so_long(kept, command, answers, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    answers += [NotRunning("not yet"), document(state="down", isReady=False), document()]
    assert command("status", "--wait-ready", 60)[0] == 0
    assert len(waits) == 2
    answers[:] = [document(state="down", isReady=False)]
    assert command("status", "--wait-ready", 0.05)[0] == 3


def test_it_is_shown_again_and_again_until_somebody_ends_it(kept, command, answers, monkeypatch):
    shown = []

    def wait(delay_s):
        shown.append(delay_s)
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", wait)
    answers.append(document())
    code, out, _ = command("status", "--watch", "--json")
    assert code == 130
    assert len(out.splitlines()) == 3
    assert module.CLEAR not in out


@pytest.mark.parametrize("name", ["status", "tail"])
def test_the_command_loads_nothing_that_takes_its_time(kept, name):
    slow = "{'asyncio', 'structlog', 'aiohttp', 'requests', 'starlette', 'uvicorn', 'prometheus_client', 'jmespath'}"
    code = f"import sys; from rc_push.__main__ import main; main(['-c', {str(kept.config)!r}, {name!r}])"
    code += f"; print('slow:', sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "slow: []"


# ---------------------------------------------------------------------------------------------------------------- text


def text(**fields):
    found = document(**fields)
    found["actions"] = actions_for(found)
    return click.unstyle("\n".join(status_lines(found, NOW)))


def test_all_that_matters_is_told_to_people():
    shown = text()
    assert "ok  rc-push 0.1.0, up for 3 d 2 h, pid 4711, generation 2 of the file" in shown
    assert (
        "team             live         for 2 h 12 min  websocket  14/min  last event 3 s ago  stored 2711  duplicate 2"
        in shown
    )
    assert "token good for 41 min  calls left auth 3/5  silent in auth  rate limited 3" in shown
    assert "3.1 MB in use, 78.4 GB free on the disk" in shown
    assert "2/min  4/h  position 5  the oldest 2 h 0 min old" in shown
    assert "none within a day" in shown
    assert "next" not in shown


def test_what_is_wrong_is_told_with_its_reason_and_the_next_step():
    down = subscription(state="down", why="no answer\x1b[2J", nextTryAt="2027-01-15T08:00:40.000Z", lastEventAt=None)
    failing = handler(state="failing", lastError="no route", nextTryAt="2027-01-15T08:00:05.000Z", lagS=212.4,
                      pending=21, waiting=21, parked=1, failures=34)  # fmt: skip
    shown = text(state="degraded", reasons=["bad\x1b[2J"], subscriptions=[down], handlers=[failing],
                 gaps={"open": 1, "lastDay": 2, "openOnes": []})  # fmt: skip
    assert "\x1b" not in shown
    assert "no answer\\u001b[2J; next try in 40 s" in shown
    assert "no event yet" in shown
    assert "212.4 s behind  delivered 4  pending 21  waiting 21  parked 1  failures 34" in shown
    assert "no route; next try in 5 s" in shown
    assert "1 open, 2 within a day" in shown


def test_a_journal_with_a_limit_and_without_facts():
    journal = document()["journal"]
    assert "3.1 MB of 10.0 GB in use" in text(journal=journal | {"maxBytes": 10_000_000_000})
    assert "in use" not in text(journal={"state": "ok", "why": "", "liveBytes": 1}, events={"head": 1}, gaps={})


# -------------------------------------------------------------------------------------------------------------- advice


@pytest.mark.parametrize(
    ("fields", "what", "do"),
    [
        ({"daemon": None, "isRunning": False, "reasons": ["x"]}, "not at work", "systemctl start"),
        ({"daemon": None, "isRunning": True, "reasons": ["x"]}, "does not answer", "systemctl restart"),
        ({"config": {"mistake": "line 3: no such key"}}, "not in force", "rc-push reload"),
        ({"subscriptions": [subscription(state="down", isFinal=True)]}, "team is refused", "rc-push reload"),
        ({"subscriptions": [subscription(state="degraded")]}, "team is degraded", "rc-push check"),
        ({"subscriptions": [subscription(state="degraded", isServed=False)]}, "team is degraded", "unless it goes on"),
        (
            {"subscriptions": [subscription(state="degraded", isServed=False, isAllRefused=True)]},
            "team is degraded",
            "give the permission that is missing",
        ),
        (
            {"subscriptions": [subscription(state="degraded", why="not moved to webhook yet: 400 SUB-521")]},
            "team has not moved",
            "the old transport goes on",
        ),
        ({"subscriptions": [subscription(state="down")]}, "team is down", "unless it goes on"),
        ({"handlers": [handler(state="failing")]}, "crm fails", "mend"),
        ({"handlers": [handler(state="paused")]}, "crm is paused", "rc-push handlers resume crm"),
        ({"handlers": [handler(parked=3)]}, "given up on 3", "rc-push handlers retry crm"),
        ({"gaps": {"open": 2}}, "gaps are open: 2", "rc-push gaps"),
        ({"journal": {"why": "max_bytes is near"}}, "max_bytes is near", "raise"),
        ({"journal": {"why": "", "diskFreeBytes": 4, "diskBytes": 100}}, "nearly full", "make room"),
    ],
)
def test_each_trouble_has_its_step(fields, what, do):
    (action,) = actions_for(document(**fields))
    assert what in action["what"]
    assert do in action["do"]


@pytest.mark.parametrize("state", ["connecting", "subscribing", "recovering"])
def test_what_passes_by_itself_needs_no_step(state):
    assert actions_for(document(subscriptions=[subscription(state=state)])) == []
