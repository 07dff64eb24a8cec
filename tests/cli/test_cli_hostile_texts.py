"""Whatever others have written, no command lets it command the terminal, or fails because of it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import unicodedata
from contextlib import closing

import pytest

from rc_push.__main__ import main
from rc_push.cli.check import Finding
from rc_push.cli.hops import Hop, Rule
from rc_push.envelope import Batch, Envelope, Gap, Source, Unreadable
from rc_push.errors import RestError
from rc_push.journal.progress import Advance, Attempt, Unfinished
from rc_push.journal.store import Store
from rc_push.payload import envelope_from_payload

SOURCE = Source("main", "team", "websocket")
# Each character that is obeyed, behind a mark by which it would be found.
MARK = "EVIL"
CHARACTERS = [
    "\x1b[31m",
    "\x1b]0;t\x07",
    "\x9b2J",
    "\x90",
    "\x85",
    "\r",
    "\n",
    "\b",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u200b",
]
EVIL = "".join(f"{MARK}{character}" for character in CHARACTERS)
OURS = re.compile(r"\x1b\[[0-9;]*m")
CONFIG = """
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.crm]
use = "log"
where = "contains(body.text, 'x')"
"""


def _event(fields, *, as_codes=False):
    told = {"uuid": "u1", "event": "/x", "body": {"eventType": "PostAdded"}} | fields
    payload = json.dumps(told, ensure_ascii=as_codes).encode()
    envelope = envelope_from_payload(payload, SOURCE, 1_700_000_000_000)
    assert isinstance(envelope, Envelope)
    return envelope


def _deepest(text, begin, end):
    """Return the event that is nested as deeply as can be stored: received where the stack is as good as empty."""
    found = []

    def search():
        depth, step = 0, 1 << 14
        while step:
            payload = (text % (begin * (depth + step), end * (depth + step))).encode()
            envelope = envelope_from_payload(payload, SOURCE, 1_700_000_000_000)
            if isinstance(envelope, Envelope):
                found.append(envelope)
                depth += step
            step //= 2

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    return found[-1]


def _events():
    people = {"name": EVIL, "phoneNumber": EVIL, "extensionNumber": EVIL}
    body = {"eventType": "PostAdded", "text": EVIL, "from": people, "to": [people], "groupId": EVIL, EVIL: EVIL}
    yield _event({"event": f"/x{EVIL}", "timestamp": EVIL, "subscriptionId": EVIL, "ownerId": EVIL, "body": body})
    yield _event({"uuid": "u2", "body": {"telephonySessionId": EVIL, "parties": [{"status": {"code": EVIL}}]}})
    yield _event({"uuid": "u3", "body": {"changes": [{"type": EVIL}]}, EVIL: EVIL})
    yield _deepest('{"uuid":"u4","event":"/x","body":%s1%s}', '{"a":', "}")
    yield _deepest('{"uuid":"u5","event":"/x","body":{"eventType":"PostAdded","text":%s1%s}}', "[", "]")
    yield _event(
        {"uuid": "u6", "body": {"eventType": "PostAdded", "text": "\ud800", "number": 10**4000}}, as_codes=True
    )


@pytest.fixture
def config(tmp_path):
    """Return a file whose journal has hostile texts wherever others than the user can put some."""
    path = tmp_path / "rc-push.toml"
    path.write_text(f"journal.path = '{tmp_path / 'journal.db'}'\n{CONFIG}")
    crm = Advance(6, delivered=4)
    crm.unfinished = {1: Unfinished(1, "parked", False, EVIL, 3, 4, 1_700_000_000_000, 1_700_000_001_000, None, EVIL)}
    crm.attempts = [Attempt(1, 4, 0, 5, "failed", EVIL, EVIL)]
    with closing(Store(tmp_path / "journal.db")) as store, store.transaction():
        store.progress.register("crm", None, 0)
        gap = Gap("team", "websocket", 1_700_000_000_000, None, EVIL, "possible")
        unreadable = Unreadable(EVIL.encode() + b"\xff\x9b", EVIL, SOURCE, 1_700_000_000_000)
        store.append(Batch("team", list(_events()), [unreadable], [gap]))
        store.progress.save("crm", crm)
    return path


COMMANDS = [
    *(["events", "--limit", "100"], ["events", "--limit", "100", "--json"]),
    *(["events", str(position), *more] for position in range(1, 8) for more in ([], ["--json"])),
    *(["tail", *more] for more in ([], ["--json"], ["--redact"], ["--redact", "--json"])),
    *(["tail", "--where", "contains(body.text, 'x')"], ["tail", "--where", f"body.text == '{EVIL}'"]),
    *(["gaps"], ["gaps", "--json"], ["unreadable"], ["unreadable", "--json"], ["audit"], ["audit", "--json"]),
    *(["parked"], ["parked", "--json"], ["parked", "--where", "contains(body.text, 'x')"], ["handlers"]),
    *(["explain", str(position), *more] for position in range(1, 8) for more in ([], ["--json"])),
    *(["status"], ["status", "--json"], ["journal", "check"], ["journal", "stats"], ["check", "--offline"]),
    *(["events", EVIL], ["explain", EVIL], ["plugins", EVIL], ["parked", "--handler", EVIL]),
    *(["events", "--type", EVIL], ["handlers", "retry", EVIL], ["handlers", "pause", EVIL], ["replay", EVIL]),
    *(["replay", EVIL, "--to", EVIL], ["replay", "1", "--to", EVIL], ["test", EVIL], ["-c", EVIL, "events"], [EVIL]),
]


def _assert_harmless(text):
    text = text.replace("\r\n", "\n")
    assert f"{MARK}\x1b" not in text
    shown = OURS.sub("", text)
    obeyed = {hex(ord(c)) for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c != "\n"}
    assert not obeyed, ascii(shown)[:2000]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: ascii(" ".join(words)[:40]))
def test_no_command_shows_what_a_terminal_obeys(config, monkeypatch, capfdbinary, words):
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)  # as on a terminal
    code = main(["-c", str(config), *words])
    out, err = (output.decode() for output in capfdbinary.readouterr())
    assert code != 70, err
    assert "Traceback" not in err
    _assert_harmless(out)
    _assert_harmless(err)


@pytest.mark.parametrize("words", [["events", "--json"], ["journal", "export", "--since", "2020-01-01"], ["gaps"]])
def test_on_a_real_terminal_neither(config, words):
    shown, terminal = pty.openpty()
    command = [sys.executable, "-m", "rc_push", "-c", str(config), *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    with os.fdopen(shown, "rb", buffering=0) as end:
        while True:
            try:
                read = end.read(65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            output += read
    assert process.wait(30) == 0
    assert MARK in output.decode()
    _assert_harmless(output.decode())


@pytest.mark.parametrize(
    "told",
    [
        Finding("problem", "accounts.main", EVIL, EVIL, exit_code=77),
        Hop("problem", "tls", EVIL, EVIL, EVIL, Rule(EVIL, 443, "TLS", EVIL)),
    ],
    ids=["check", "doctor"],
)
def test_neither_does_what_a_server_or_its_certificate_says(told):
    assert MARK in str(told)
    _assert_harmless(str(told).replace("\n              ", " "))
    assert str(told).count("\n") == (2 if isinstance(told, Hop) else 0), "its own lines alone"


def test_nor_what_a_server_says_to_a_command_that_asks_it(config, monkeypatch, capfd):
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    config.write_text(config.read_text() + "[accounts.main]\nclient_id='a'\nclient_secret='b'\njwt='c'\n")

    def refuse(*_, **__):
        raise RestError(400, EVIL, EVIL, where=EVIL)

    monkeypatch.setattr("rc_push.cli.visit.visiting", refuse)
    for command in ("subscriptions", "webhooks"):
        assert main(["-c", str(config), command]) == 1
        out, err = capfd.readouterr()
        assert MARK in err
        _assert_harmless(out + err)
