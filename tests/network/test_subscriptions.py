"""The command that shows what RingCentral has of ours, and removes only what is provably ours."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
from far import POSTS
from simulated import Kept, account_config

from rc_push import log
from rc_push.__main__ import main
from rc_push.config import NetworkConfig
from rc_push.envelope import Batch, Cursor
from rc_push.journal import Journal
from rc_push.protocol.subscription import PATH
from rc_push.rest import Account
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

PUBNUB = {"eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub", "encryption": True}}


class World:
    """A simulator, a file and its journal."""

    def __init__(self, sim: Simulator, folder: Path, capfd: Any) -> None:
        self.sim = sim
        self.folder = folder
        self._capfd = capfd
        secrets = {"secret": sim.client_secret, "jwt": sim.jwt}
        for name, value in secrets.items():
            (folder / name).touch(0o600)
            (folder / name).write_text(value)
        (folder / "rc-push.toml").write_text(
            f"journal.path = '{folder}/journal.db'\n[accounts.main]\nserver = '{sim.server}'\n"
            f"client_id = '{sim.client_id}'\nclient_secret.file = '{folder}/secret'\njwt.file = '{folder}/jwt'\n"
            f"[subscriptions.team]\ntransport = 'pubnub'\nevent_filters = ['{POSTS}']\n"
        )

    async def create(self, *, used_by: str = "", seen_at_ms: int = 1) -> str:
        """Create a subscription as the daemon does; in a journal that knows who uses it."""
        async with (
            Journal(self.folder / "journal.db") as journal,
            Account(account_config(self.sim), NetworkConfig(), journal, records=journal) as account,
        ):
            info = await account.request("POST", PATH, body=PUBNUB)
            if used_by:
                state = json.dumps({"subscription_id": info["id"]}).encode()
                await journal.append(Batch(used_by, cursor=Cursor(used_by, "pubnub", seen_at_ms, state)))
        return str(info["id"])

    async def create_foreign(self) -> str:
        """Create one as another program does."""
        async with Account(account_config(self.sim), NetworkConfig(), Kept()) as account:
            return str((await account.request("POST", PATH, body=PUBNUB))["id"])

    async def run(self, *options: str) -> tuple[int, list[dict[str, Any]], str]:
        """Run `subscriptions` with *options*; return exit code, what it prints as JSON, and the rest."""
        self._capfd.readouterr()
        code = await asyncio.to_thread(main, ["-c", str(self.folder / "rc-push.toml"), "subscriptions", *options])
        out, err = self._capfd.readouterr()
        lines = [json.loads(line) for line in out.splitlines()] if "--json" in options else []
        return code, lines, out + err


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    for name in list(os.environ):
        if name.startswith("RC_"):
            monkeypatch.delenv(name)
    async with Simulator(knobs=Knobs(rate_limits=False)) as sim:
        yield World(sim, tmp_path, capfd)
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, log._Stdlib)]


async def test_ours_orphans_and_those_of_others_are_told_apart(world: World):
    used, orphan, foreign = await world.create(used_by="team"), await world.create(), await world.create_foreign()
    code, lines, _ = await world.run("--json")
    assert code == 0
    assert {line["id"]: (line["subscription"], line["state"]) for line in lines} == {
        used: ("team", "granted"),
        orphan: (None, "orphan"),
        foreign: (None, "foreign"),
    }
    assert {tuple(line) for line in lines} == {
        ("account", "subscription", "transport", "id", "state", "found", "eventFilters", "refused", "expiresAt")
    }
    assert all(line["expiresAt"] for line in lines)


async def test_prune_removes_the_orphan_and_nothing_else(world: World):
    used, orphan, foreign = await world.create(used_by="team"), await world.create(), await world.create_foreign()
    code, lines, _ = await world.run("prune", "--yes", "--json")
    assert (code, lines) == (0, [{"account": "main", "id": orphan, "isRemoved": True}])
    assert world.sim.state.subscriptions.keys() == {used, foreign}


async def test_a_dry_run_removes_nothing(world: World):
    orphan = await world.create()
    code, _, told = await world.run("prune", "--dry-run")
    assert code == 0
    assert f"would remove {orphan}" in told
    assert orphan in world.sim.state.subscriptions


async def test_without_a_terminal_prune_wants_to_be_told(world: World, monkeypatch: pytest.MonkeyPatch):
    orphan = await world.create()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, told = await world.run("prune")
    assert code == 2
    assert "--yes" in told
    assert orphan in world.sim.state.subscriptions


async def test_a_refused_filter_is_shown_with_its_reason_and_remedy(world: World):
    world.sim.state.knobs.turn({"disabled_filters": "posts"})
    await world.create(used_by="team")
    code, (line,), _ = await world.run("--json")
    assert code == 1
    assert line["state"] == "not granted"
    assert [(one["filter"], one["reason"]) for one in line["refused"]] == [(POSTS, "SUB-412")]
    assert line["refused"][0]["remedy"]
    _, _, told = await world.run()
    assert "SUB-412" in told


async def test_without_a_journal_nothing_is_ours(world: World):
    foreign = await world.create_foreign()
    code, lines, _ = await world.run("--json")
    assert code == 1
    assert [(line["id"], line["state"]) for line in lines] == [(None, "missing"), (foreign, "foreign")]
    assert (await world.run("prune", "--yes", "--json"))[1] == []


async def test_a_session_of_its_own_is_ended_and_the_daemons_is_not(world: World):
    await world.create(used_by="team")
    (session,) = world.sim.state.tokens.sessions
    await world.run("--json")
    assert [one.is_over for one in world.sim.state.tokens.sessions] == [False], "the daemon's was shared"
    await world.sim.admin.faults({"fault": "revoke-session"})
    assert session.is_over


async def test_an_account_that_cannot_be_asked_is_told_of(world: World):
    world.sim.state.users.clear()
    code, lines, told = await world.run("--json")
    assert (code, lines) == (77, [])
    assert "OAU-140" in told
    assert told.startswith("rc-push: account main: ")
    assert told.count("account main") == 1
