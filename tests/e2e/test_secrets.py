"""Secrets are planted, things go wrong, and everything that was logged, printed or stored is searched for them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import stat
import urllib.request
from pathlib import Path

import pytest

from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
SMS = "/restapi/v1.0/account/~/extension/~/message-store/instant?type=SMS"
# What people write. It may stand in data, and in the log at the level debug.
TEXT = "the planted figures are 4711"
NUMBER = "+15550104711"
WORDS = {TEXT, NUMBER}
WITHIN_S = 45.0
# Tokens, not ids: the simulator's client id and endpoint ids are shorter.
TOKEN_MIN_BYTES = 24
JOURNAL_FILES = {"journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock"}

# A device that is always full, a program that prints all it knows: each event fails, and is parked.
BROKEN_HANDLER = """
[handlers.lines]
use = "log"
[handlers.broken]
use = "file"
path = "/dev/full"
retry = { first_delay_s = 0.01, max_attempts = 2 }
[handlers.told]
use = "command"
program = ["/bin/sh", "-c", "env; cat; exit 3"]
retry = { first_delay_s = 0.01, max_attempts = 2 }
[handlers.team]
use = "team_post"
url = { env = "TEAM_URL" }
text = "{body.text}{body.subject}"
retry = { first_delay_s = 0.01, max_attempts = 2 }
"""
# What goes wrong while the connections are lost, and the word of the log that proves it.
TROUBLES = {
    "rate_limited": {"fault": "rate-limit", "path": "/restapi/oauth/wstoken", "retryAfter": 1, "times": 2},
    "CMN-201": {"fault": "http-error", "path": "/restapi/oauth/wstoken", "status": 500, "times": 2},
    "refused the WebSocket upgrade": {"fault": "http-error", "path": "/ws", "status": 403, "times": 2},
    "access_token_refused": {"fault": "expire-token"},
}


@pytest.fixture
def planted(monkeypatch):
    """Everything secret that the simulator issues: credentials, access, refresh, ws and wsc tokens."""
    issued: set[str] = set()
    make = secrets.token_urlsafe

    def recording(size):
        value = make(size)
        if size >= TOKEN_MIN_BYTES:
            issued.update({value, value.replace("-", "_")})  # a wsc token begins in the second form
        return value

    monkeypatch.setattr(secrets, "token_urlsafe", recording)
    return issued


@pytest.fixture
async def simulator(planted):
    async with Simulator(knobs=Knobs(auth_limit=1000)) as running:
        planted.add(base64.b64encode(f"{running.client_id}:{running.client_secret}".encode()).decode())
        yield running


@pytest.fixture
def make_loud(tmp_path, simulator, make_daemon):
    """Make daemons that tell all they can, in the form of *log_format*, and have a handler that fails."""

    def make(log_format="text"):
        daemon = make_daemon(simulator.ready, tmp_path / log_format)
        secret = daemon.folder / "client-secret"
        secret.touch(0o600)
        secret.write_text(simulator.client_secret)
        daemon.accounts = daemon.accounts.replace('{ env = "RC_APP_CLIENT_SECRET" }', f'{{ file = "{secret}" }}')
        daemon.subscriptions = f"[subscriptions.team]\nevent_filters = {json.dumps([POSTS, SMS])}\n"
        daemon.more = BROKEN_HANDLER + '[web]\nlisten = "127.0.0.1:0"\n'
        daemon.web_url = lambda: re.search(r"http://[\d.:]+", next(_lines(daemon, "web_listens")))[0]
        daemon.environ["TEAM_URL"] = f"{simulator.server}/nowhere/{secrets.token_urlsafe(TOKEN_MIN_BYTES)}"
        write_config = daemon.write_config

        def write_loud_config():
            write_config()
            text = daemon.config_path.read_text()
            daemon.config_path.write_text(text.replace('"json"', f'"{log_format}"\nlevel = "debug"'))

        daemon.write_config = write_loud_config
        return daemon

    return make


def _lines(daemon, event):
    return (line for line in daemon.said().splitlines() if event in line)


async def receive(simulator, daemons):
    """Emit events that say something until each of *daemons* has received one of them."""
    uuids: set[str] = set()
    async with asyncio.timeout(WITHIN_S):
        while not all(uuids & daemon.events.look() for daemon in daemons):
            uuids.add(simulator.emit(POSTS, {"eventType": "PostAdded", "text": TEXT}))
            uuids.add(simulator.emit(SMS, {"type": "SMS", "subject": TEXT, "from": {"phoneNumber": NUMBER}}))
            await asyncio.sleep(0.05)


def send_nonsense(simulator):
    """Send frames that cannot be read, and that say something."""
    speaking = [
        f'{{"text": "{TEXT}"',
        f'[{{"type":"ServerNotification","messageId":"1"}},{{"body":{{"text":"{TEXT}","from":"{NUMBER}"}}}}]',
        f'[{{"type":"Surprise"}},"{TEXT} {NUMBER}"]',
    ]
    for session in simulator.state.sessions.values():
        if session.link:
            for frame in (*GARBAGE.values(), *(text.encode() for text in speaking)):
                session.wsg.inject(frame)
            session.link.flush()


def found(secret_texts, text):
    """Return what of *secret_texts* stands in *text*."""
    content = text if isinstance(text, bytes) else text.encode()
    return {secret for secret in secret_texts if secret.encode() in content}


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_no_secret_leaves_the_journal_whatever_goes_wrong(simulator, planted, make_loud):
    daemons = [make_loud("text").start(), make_loud("json").start()]
    await receive(simulator, daemons)
    for daemon in daemons:
        check_arguments(daemon.pid, planted)

    for trouble in TROUBLES.values():
        await simulator.admin.faults(trouble)
        await simulator.admin.faults({"fault": "drop"})
        await receive(simulator, daemons)
    send_nonsense(simulator)
    await receive(simulator, daemons)
    await simulator.admin.faults({"fault": "revoke-session"})
    await receive(simulator, daemons)

    for daemon in daemons:
        await check_views(daemon, planted)
        check_files(daemon.folder, planted)  # the write-ahead log is still there
        assert await daemon.stop() == 0
        check_log(daemon.said(), planted)
        check_files(daemon.folder, planted)
        await check_commands(daemon, planted)


def check_arguments(pid, planted):
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"rc_push" in arguments
    assert not found(planted, arguments)


def check_process(pid, part, planted):
    content = Path(f"/proc/{pid}/{part}").read_bytes()
    assert content.count(b"\0") > 1
    assert not found(planted, content), part


async def check_views(daemon, planted):
    """See that what the running daemon shows to whoever watches tells of all troubles, and has no secret."""
    url = daemon.web_url()
    pages = "".join([await page(url + path) for path in ("/livez", "/readyz", "/metrics")])
    told = [await daemon.run(*arguments) for arguments in (["status"], ["status", "--json"], ["handlers", "--json"])]
    shown = pages + "".join(done.stdout + done.stderr for done in told)
    for proof in ("rc_push_reconnects_total", "exit code 3", "No space left on device", '"ready"'):
        assert proof in shown
    assert not found(planted | WORDS, shown)


async def page(url):
    def ask():
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(ask)


def check_log(log, planted):
    for proof in (*TROUBLES, "unreadable", "event_parked", "exit code 3", "oauth_login", "oauth_refresh"):
        assert proof in log, f"the test has not provoked {proof}"
    assert not found(planted, log)
    told = "\n".join(line for line in log.splitlines() if not re.search(r'^\S+ debug |"level":"debug"', line))
    assert "event_received" in told
    assert not found(WORDS, told)


def check_files(folder, planted):
    """See that the journal alone holds tokens, and is its owner's alone."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {modes[name] for name in JOURNAL_FILES & modes.keys()} == {0o600}
    assert modes["events.jsonl"] == 0o640
    holders = {path.name for path in folder.iterdir() if not path.is_socket() and found(planted, path.read_bytes())}
    assert holders & JOURNAL_FILES  # so the search finds what is there
    assert holders <= JOURNAL_FILES | {"client-secret"}
    assert found(WORDS, (folder / "events.jsonl").read_bytes()) == WORDS


async def check_commands(daemon, planted):
    """See that the commands print what people wrote where they are asked for it, and never a token."""
    done = await daemon.run("events", "--json", "--limit", "1000")
    assert found(WORDS, done.stdout) == WORDS
    assert not found(planted, done.stdout + done.stderr)
    done = await daemon.run("tail", "--redact", "--json", "-n", "1000")
    assert done.stdout.count("\n") > 1
    assert not found(planted | WORDS, done.stdout + done.stderr)
    for arguments in (["events", "1"], ["gaps"], ["unreadable", "--json"], ["check"], ["check", "--json"], ["status"]):
        done = await daemon.run(*arguments)
        assert done.returncode == (3 if arguments == ["status"] else 0), done
        assert done.stdout
        assert not found(planted, done.stdout + done.stderr), arguments


async def test_with_secrets_in_files_neither_the_environment_nor_the_arguments_hold_one(simulator, planted, make_loud):
    daemon = make_loud()
    secret = daemon.folder / "jwt"
    secret.touch(0o600)
    secret.write_text(simulator.jwt)
    daemon.accounts = daemon.accounts.replace('{ env = "RC_USER_JWT" }', f'{{ file = "{secret}" }}')
    daemon.accounts = daemon.accounts.replace('{ env = "RC_APP_CLIENT_ID" }', f'"{simulator.client_id}"')
    for name in ("RC_APP_CLIENT_ID", "RC_APP_CLIENT_SECRET", "RC_USER_JWT"):
        assert found(planted | {simulator.client_id}, daemon.environ.pop(name))
    daemon.environ["TEAM_URL"] = f"{simulator.server}/nowhere"
    daemon.start()
    await receive(simulator, [daemon])
    for part in ("environ", "cmdline"):
        check_process(daemon.pid, part, planted)
    assert await daemon.stop() == 0


async def test_a_refused_login_names_no_secret(planted, make_loud):
    daemon = make_loud()
    daemon.write_config()
    wrong = f"eyJwbGFudGVk.{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(32)}"
    daemon.environ["RC_USER_JWT"] = wrong
    for arguments in (["check"], ["check", "--json"], ["run"]):
        done = await daemon.run(*arguments)
        assert done.returncode == 77
        assert "OAU-140" in done.stdout + done.stderr
        assert not found(planted, done.stdout + done.stderr)


@pytest.mark.parametrize("written", ['"{}"', '{{ env = "{}" }}', '{{ file = "{}" }}', '["{}"]', '{{ evn = "{}" }}'])
async def test_a_secret_in_the_wrong_place_is_not_repeated(simulator, planted, make_loud, written):
    daemon = make_loud()
    daemon.accounts = daemon.accounts.replace('{ env = "RC_USER_JWT" }', written.format(simulator.jwt))
    daemon.write_config()
    done = await daemon.run("check", "--offline")
    assert "accounts.main.jwt" in done.stdout
    assert not found(planted, done.stdout + done.stderr)
