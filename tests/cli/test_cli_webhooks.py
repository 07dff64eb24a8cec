"""`rc-push webhooks` lists what RingCentral posts to, and what would replace it; `check` says how ours stand."""

from __future__ import annotations

import asyncio
import json
import tomllib
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rc_push.__main__ import main
from rc_push.envelope import Batch
from rc_push.errors import JournalError, ServerError
from rc_push.journal.store import Store
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator
from rc_push.simulator.state import Subscription
from rc_push.simulator.webhooks import Webhook
from rc_push.transports.webhook_state import Hook, State

FILE = """
[accounts.main]
server = "{server}"
client_id = {{ env = "RC_APP_CLIENT_ID" }}
client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}
jwt = {{ env = "RC_USER_JWT" }}
[subscriptions.team]
transport = "webhook"
event_filters = ["/team-messaging/v1/posts"]
address = "https://events.example.com/ours"
listen = "127.0.0.1:8443"
[journal]
path = "{folder}/journal.db"
"""


@pytest.fixture
async def world(tmp_path, monkeypatch):
    """Run a simulator with two webhooks, the first of which is ours."""
    async with Simulator(knobs=Knobs(rate_limits=False)) as simulator:
        path = tmp_path / "rc-push.toml"
        path.write_text(FILE.format(server=simulator.server, folder=tmp_path))
        for name, value in (("CLIENT_ID", simulator.client_id), ("CLIENT_SECRET", simulator.client_secret)):
            monkeypatch.setenv(f"RC_APP_{name}", value)
        monkeypatch.setenv("RC_USER_JWT", simulator.jwt)
        ours, theirs = (add(simulator, address) for address in ("ours", "theirs"))
        hook = Hook("the-token", "https://events.example.com/ours", id=ours.id)
        with closing(Store(tmp_path / "journal.db")) as store, store.transaction():
            store.append(Batch("team"))
            store.kept.save("webhooks", "team", msgspec.json.encode(State(hook)))
        yield SimpleNamespace(simulator=simulator, ours=ours, theirs=theirs, path=path)


def add(simulator, name):
    world = simulator.state
    filters = ["/restapi/v1.0/account/1/extension/2/message-store\x1b", "/team-messaging/v1/posts"]
    entry = Subscription(world.user, filters, filters, [], world.clock.iso())
    entry.webhook = Webhook(world.sender, f"https://events.example.com/{name}", "x")
    entry.expires_at = world.clock.now() + 3600
    world.subscriptions[entry.id] = entry
    return entry


async def run(world, *arguments):
    return await asyncio.to_thread(main, ["-c", str(world.path), *arguments])


async def test_all_webhooks_are_listed_and_marked_as_ours_or_not(world, capsys):
    assert await run(world, "webhooks", "--json") == 0
    ours, theirs = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (ours["id"], ours["subscription"], ours["status"]) == (world.ours.id, "team", "Active")
    assert (theirs["id"], theirs["subscription"], theirs["reason"]) == (world.theirs.id, None, None)
    assert theirs["address"] == "https://events.example.com/theirs"
    assert theirs["expiresAt"]


async def test_the_lines_that_would_replace_one_are_toml(world, capsys):
    await run(world, "webhooks", "--json")
    ours, theirs = (tomllib.loads(json.loads(line)["replacement"]) for line in capsys.readouterr().out.splitlines())
    assert ours == {"subscriptions": {"team": {"transport": "websocket"}}}
    (table,) = theirs["subscriptions"].values()
    assert table == {"transport": "websocket", "event_filters": world.theirs.event_filters}


async def test_people_see_the_reason_of_an_end_and_no_control_characters(world, capsys):
    world.theirs.webhook.end("I/O operation is failed.\nDetails: [Read timed out]")
    assert await run(world, "webhooks") == 0
    out = capsys.readouterr().out
    assert "Blacklisted (Blacklisted by RingCentral: I/O operation is failed. Details: [Read timed out])" in out
    assert "ours: team" in out
    assert "not ours" in out
    assert "\x1b" not in out
    assert "[subscriptions.message-store]" in out
    assert "the-token" not in out


async def test_it_leaves_no_session_behind(world):
    await run(world, "webhooks")
    assert all(session.is_over for session in world.simulator.state.tokens.sessions)


@pytest.mark.parametrize("where", ["", "account main: GET /subscription"])
async def test_what_goes_wrong_names_its_account_once(world, capsys, monkeypatch, where):
    async def refused(*_):
        raise ServerError(503, "CMN-201", "unavailable", where=where)

    monkeypatch.setattr("rc_push.transports.subscription_calls.listed", refused)
    assert await run(world, "webhooks") == 1
    err = capsys.readouterr().err
    assert err.startswith("rc-push: account main: ")
    assert err.count("account main") == 1


async def test_it_leaves_no_session_behind_where_the_list_is_refused_either(world, monkeypatch):
    async def refused(account, _):
        await account.access_token()
        raise ServerError(503, "CMN-201", "unavailable")

    monkeypatch.setattr("rc_push.transports.subscription_calls.listed", refused)
    assert await run(world, "webhooks") == 1
    (session,) = world.simulator.state.tokens.sessions
    assert session.is_over


async def test_a_journal_that_somebody_else_keeps_is_no_missing_one(world, capsys, monkeypatch):
    exists = Path.exists

    def hidden(path, **options):
        if path.name == "journal.db":
            raise PermissionError(13, "Permission denied")
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", hidden)
    for command in ("webhooks", "subscriptions"):
        assert await run(world, command, "--json") in (0, 1)
        assert '"subscription": "team"' in capsys.readouterr().out

    def unreadable(path):
        raise JournalError(f"{path}: no right to read it")

    monkeypatch.setattr("rc_push.cli.visit.Reader", unreadable)
    for command in ("webhooks", "subscriptions"):
        assert await run(world, command) == 74
        assert "no right to read it" in capsys.readouterr().err


async def test_an_account_that_cannot_be_asked_is_told(world, capsys, monkeypatch):
    monkeypatch.setenv("RC_USER_JWT", "wrong")
    assert await run(world, "webhooks") == 77
    assert "account main" in capsys.readouterr().err


async def test_check_says_what_ringcentral_says_of_ours_and_makes_none(world, capsys):
    assert await run(world, "check") == 0
    assert "RingCentral posts to https://events.example.com/ours, until" in capsys.readouterr().out
    world.ours.webhook.end("Read timed out")
    assert await run(world, "check") == 69
    assert "Blacklisted by RingCentral: Read timed out" in capsys.readouterr().out
    del world.simulator.state.subscriptions[world.ours.id]
    assert await run(world, "check") == 0
    assert "RingCentral has none of ours yet" in capsys.readouterr().out
    assert "POST /restapi/v1.0/subscription" not in world.simulator.state.calls


async def test_check_says_which_event_filters_of_ours_are_refused(world, capsys):
    refused = {"filter": "/team-messaging/v1/posts", "reason": "SUB-412", "message": "no permission"}
    world.ours.disabled, world.ours.event_filters = [refused], world.ours.event_filters[:1]
    assert await run(world, "check") == 0
    assert "! subscriptions.team: event filters refused: /team-messaging/v1/posts (SUB-412)" in capsys.readouterr().out
    world.ours.event_filters = []
    assert await run(world, "check") == 77
    assert "give the app or the user the missing permission" in capsys.readouterr().out


async def test_check_looks_at_the_certificate(world, capsys, tmp_path):
    for name in ("chain", "key"):
        (tmp_path / name).write_text("no PEM")
    (tmp_path / "key").chmod(0o600)
    more = f'listen = "127.0.0.1:8443"\ncertificate = "{tmp_path}/chain"\nkey = "{tmp_path}/key"'
    world.path.write_text(world.path.read_text().replace('listen = "127.0.0.1:8443"', more))
    assert await run(world, "check") == 78
    assert "name a chain and its key" in capsys.readouterr().out
