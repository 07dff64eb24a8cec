"""`explain`: for each handler whether an event goes there and which rule decided; from the journal or from files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rc_push.__main__ import main
from rc_push.cli.given import EVENT_MAX_BYTES
from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.store import Store

POST = {
    "uuid": "6452",
    "event": "/team-messaging/v1/posts",
    "timestamp": "2026-11-23T10:00:00.120Z",
    "subscriptionId": "2db5",
    "ownerId": "23",
    "body": {"eventType": "PostAdded", "groupId": "99", "text": "Hello"},
}
OURS = {
    "position": 1042,
    "receivedAt": "2026-11-23T10:00:00.190Z",
    "account": "main",
    "subscription": "calls",
    "transport": "pubnub",
    "origin": "recovered",
    "type": "not.looked.at",
}
CONFIG = """
[accounts.main]
jwt = { env = "NOT_SET" }
client_secret = { file = "/does/not/exist" }
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.events]
use = "file"
[handlers.crm]
use = "log"
types = ["sms.*"]
[handlers.urgent]
use = "log"
where = "contains(body.text, 'urgent')"
[handlers.old]
use = "no-such-plug-in"
enabled = false
"""
CALLS = "[subscriptions.calls]\nevent_filters = ['/x']\ntransport = 'pubnub'\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "rc-push.toml"
    path.write_text(f"journal.path = '{tmp_path}/journal.db'\n{CONFIG}")
    return path


@pytest.fixture
def explain(config, capfd):
    """Return a function that runs the command; it gives code, stdout and stderr."""

    def explain(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["-c", str(config), "explain", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert (out + err).replace("\n", "").isprintable()
        return code, out, err

    return explain


@pytest.fixture
def given(tmp_path: Path):
    """Return a function that writes a file of events."""

    def given(*events: object, name: str = "event.json") -> Path:
        path = tmp_path / name
        lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
        path.write_bytes(b"\n".join(lines))
        return path

    return given


def decided(out: str) -> dict[str, bool | None]:
    return {told["handler"]: told["goes"] for told in map(json.loads, out.splitlines())}


# --------------------------------------------------------------------------------------------------------- what is told


def test_each_handler_is_told_with_the_rule_that_decides_and_no_secret_is_needed(explain, given):
    code, out, err = explain(given(POST))
    assert (code, err) == (0, "")
    event, *verdicts = out.splitlines()
    assert event.split()[-3:] == ["post.added", "team", "Hello"]
    assert [line.strip() for line in verdicts] == [
        "yes   events  it has no rules and gets everything",
        'no    crm     types: post.added matches none of "sms.*"',
        "no    urgent  where: gives false",
        "off   old     it is not enabled; else: yes, it has no rules and gets everything",
    ]


def test_json_is_one_object_per_handler_with_stable_keys(explain, given):
    code, out, _ = explain(given(POST | {"rcPush": OURS}), "--json")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert told[1] == {
        "position": 1042,
        "uuid": "6452",
        "subscription": "calls",
        "handler": "crm",
        "goes": False,
        "rules": ["types"],
        "why": 'types: post.added matches none of "sms.*"',
    }
    assert [(line["handler"], line["goes"], line["rules"]) for line in told] == [
        ("events", True, []),
        ("crm", False, ["types"]),
        ("urgent", False, ["where"]),
        ("old", False, ["enabled"]),
    ]


def test_an_event_that_a_handler_would_park_is_told_so(explain, given):
    event = POST | {"body": {"eventType": "PostRemoved", "id": "1"}}
    code, out, _ = explain(given(event))
    assert code == 0
    assert "park  urgent  cannot be routed: where: contains() takes array or string and got null; give it" in out
    assert decided(explain(given(event), "--json")[1])["urgent"] is None


def test_where_there_are_no_handlers_that_is_said(explain, given, config):
    config.write_text("[subscriptions.team]\nevent_filters = ['/x']\n")
    code, out, err = explain(given(POST))
    assert (code, err) == (0, "there are no handlers in the file\n")
    assert len(out.splitlines()) == 1


def test_a_where_that_does_not_compile_is_a_mistake_in_the_configuration(explain, given, config):
    config.write_text("[handlers.h]\nuse = 'log'\nwhere = 'body.'\n[handlers.i]\nuse = 5\n")
    code, out, err = explain(given(POST))
    assert (code, out) == (78, "")
    assert err.startswith(f"rc-push: {config}: 2 mistakes\n  line 3: handlers.h.where: ")


def test_a_where_that_is_hardly_meant_is_a_warning(explain, given, config):
    config.write_text(CONFIG + "[handlers.h]\nuse = 'log'\nwhere = \"type == 'x'\"\n")
    code, _, err = explain(given(POST))
    assert code == 0
    assert "rc-push: warning: line 20: handlers.h.where: " in err


# ---------------------------------------------------------------------------------------------------- from the journal


@pytest.fixture
def journal(tmp_path):
    with closing(Store(tmp_path / "journal.db")) as store, store.transaction():
        for subscription in ("team", "calls"):
            payload = json.dumps(POST).encode()
            source = Source("main", subscription, "websocket")
            store.append(Batch(subscription, [Envelope("6452", "post.added", payload, source, 1000)]))


@pytest.mark.usefixtures("journal")
def test_an_event_of_the_journal_is_named_by_position_or_uuid(explain):
    code, out, _ = explain("2", "--json")
    assert code == 0
    assert {json.loads(line)["subscription"] for line in out.splitlines()} == {"calls"}
    code, out, _ = explain("6452", "--json")
    assert code == 0
    assert [json.loads(line)["position"] for line in out.splitlines()] == [1] * 4 + [2] * 4


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize("id_", ["77", "no-such", "x" * 5000, "\x1b[2J", "é" * 200])
def test_an_unknown_id_is_told(explain, id_):
    code, out, err = explain(id_)
    assert (code, out) == (1, "")
    assert "no such event in the journal, and no such file" in err


def test_without_a_journal_that_is_what_is_told(explain):
    code, _, err = explain("77")
    assert code == 74
    assert "there is no journal yet" in err


@pytest.mark.usefixtures("journal")
def test_a_number_is_a_position_even_where_a_file_has_that_name(explain, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given(POST | {"uuid": "file"}, name="2")
    assert '"position": 2' in explain("2", "--json")[1]
    assert '"uuid": "file"' in explain("./2", "--json")[1]


@pytest.mark.usefixtures("journal")
def test_the_subscription_of_an_event_in_the_journal_is_not_for_the_command_line(explain):
    code, _, err = explain("2", "--subscription", "team")
    assert code == 2
    assert "--subscription is for files" in err


# ---------------------------------------------------------------------------------------------------------- from files


def test_a_line_of_ours_says_where_it_came_from(explain, given, config):
    where = (
        "rcPush.subscription == 'calls' && rcPush.transport == 'pubnub' && rcPush.origin == 'recovered'"
        " && rcPush.receivedAt == '2026-11-23T10:00:00.190Z' && rcPush.position == `1042`"
        " && rcPush.type == 'post.added'"
    )
    handlers = f"[handlers.c]\nuse = 'log'\nsubscriptions = ['team']\n[handlers.d]\nuse = 'log'\nwhere = \"{where}\"\n"
    config.write_text(CONFIG + handlers)
    out = explain(given(POST | {"rcPush": OURS}), "--json")[1]
    assert decided(out) | {"c": False, "d": True} == decided(out)


def test_a_webhooks_body_came_over_the_only_subscription_or_over_the_one_that_is_named(explain, given, config):
    config.write_text(CONFIG + CALLS + "[handlers.c]\nuse = 'log'\nsubscriptions = ['calls']\n")
    path = given(POST)
    code, out, err = explain(path)
    assert (code, out) == (1, "")
    assert err == (
        f"{path}: line 1: it does not say over which subscription it came (there are: team, calls);"
        " name it with --subscription\n"
    )
    assert decided(explain(path, "--subscription", "calls", "--json")[1])["c"] is True
    assert decided(explain(path, "--subscription", "team", "--json")[1])["c"] is False
    code, _, err = explain(path, "--subscription", "cals")
    assert code == 1
    assert 'there is no subscription "cals"; did you mean "calls"?' in err


def test_a_pretty_printed_event_is_one_event(explain, given):
    for pretty in (json.dumps(POST, indent=2).encode(), b"\n\n" + json.dumps(POST, indent=2).encode() + b"\n\n"):
        code, out, _ = explain(given(pretty), "--json")
        assert (code, len(out.splitlines())) == (0, 4)


def test_every_line_of_a_file_is_explained(explain, given):
    lines = [POST | {"uuid": str(n), "rcPush": OURS | {"position": n}} for n in range(1, 51)]
    code, out, _ = explain(given(*lines[:25], b"", *lines[25:], name="events.jsonl"), "--json")
    assert code == 0
    assert [json.loads(line)["position"] for line in out.splitlines()][::4] == list(range(1, 51))


def test_a_dash_is_stdin(explain, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(POST).encode())))
    code, out, _ = explain("-", "--json")
    assert (code, len(out.splitlines())) == (0, 4)


def test_it_works_in_a_pipe(config):
    command = [sys.executable, "-m", "rc_push", "-c", str(config), "explain", "-"]
    done = subprocess.run(command, input=json.dumps(POST).encode(), capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such", "no such file or directory"), (".", "is a directory"), ("./", "is a directory"), ("/\0", "no path")],
)
def test_a_file_that_cannot_be_read_is_told(explain, tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "journal.db").close()
    code, out, err = explain(name)
    assert (code, out) == (1, "")
    assert f"cannot be read: {reason}" in err


def test_an_empty_file_holds_no_event(explain, given):
    path = given(b" \n\n")
    assert explain(path) == (1, "", f"{path}: holds no event\n")


# -------------------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"not JSON", "line 1: not JSON"),
        (b"{", "line 1: not JSON"),
        (b"5", "line 1: not a JSON object"),
        (b"[]", "line 1: not a JSON object"),
        (b"\xff\xfe", "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: nested too deeply"),
        (b'{"uuid":"1","event":"/x","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1: nested too deeply"),
        (b'{"uuid":"1","event":"/x","body":' + b"9" * 5000 + b"}", "line 1: not JSON"),
        ({"event": "/x", "body": {}}, "line 1: no usable uuid"),
        ({"uuid": "\x1b[2J", "event": "/x"}, "line 1: no usable uuid"),
        ({"uuid": "1", "body": {}}, "line 1: no event URI"),
        (POST | {"rcPush": 5}, "its rcPush is not as rc-push writes it"),
        (POST | {"rcPush": {"account": "main"}}, "missing required field `subscription`"),
        (POST | {"rcPush": OURS | {"subscription": "\x1b[2J"}}, "its rcPush is not as rc-push writes it"),
        (POST | {"rcPush": OURS | {"transport": "a\nb"}}, "its rcPush is not as rc-push writes it"),
        (POST | {"rcPush": OURS | {"account": "main\n"}}, "its rcPush is not as rc-push writes it"),
        (POST | {"rcPush": OURS | {"position": -1}}, "its rcPush is not as rc-push writes it"),
        (POST | {"rcPush": OURS | {"receivedAt": "soon"}}, "receivedAt is no time"),
        (POST | {"rcPush": OURS | {"receivedAt": "0001-01-01T00:00:00Z"}}, "receivedAt is no time"),
        (POST | {"rcPush": OURS | {"receivedAt": "9999-12-31T23:59:59Z"}}, "receivedAt is no time"),
        (b"x" * (EVENT_MAX_BYTES + 1), "longer than 16 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_event_is_told_with_the_reason(explain, given, event, reason):
    code, out, err = explain(given(event))
    assert (code, out) == (1, "")
    assert reason in err
    assert len(err) < 400


def test_what_is_no_event_does_not_hide_the_others(explain, given):
    code, out, err = explain(given(POST | {"rcPush": OURS}, b"{torn", POST | {"rcPush": OURS}), "--json")
    assert (code, len(out.splitlines())) == (1, 8)
    assert "line 2: not JSON" in err


def test_an_event_of_five_megabytes_is_explained(explain, given):
    code, out, _ = explain(given(POST | {"body": {"eventType": "PostAdded", "text": "x" * 5_000_000}}))
    assert code == 0
    assert len(out) < 1000


def test_what_an_event_says_cannot_command_the_terminal(explain, given, config):
    config.write_text(CONFIG + "[handlers.h]\nuse = 'log'\nevents = ['*']\n")
    event = POST | {
        "event": "/x\x1b[2J\r",
        "body": {"eventType": "PostAdded", "text": "\x1b]0;x\x07", "name": "\u202e"},
    }
    code, out, _ = explain(given(event))
    assert code == 0
    assert "/x\\u001b[2J\\u000d matches" in out


def test_halves_of_emojis_are_shown_as_codes(explain, given):
    code, out, _ = explain(given(POST | {"event": "/\ud83d", "body": {"eventType": "PostAdded", "text": "\ud83d"}}))
    assert code == 0
    assert "\\ud83d" in out
