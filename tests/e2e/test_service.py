"""What a service manager hears of the real daemon, on a `$NOTIFY_SOCKET` of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import time

import pytest

pytestmark = pytest.mark.e2e

WATCHDOG_S = 1.0
TWO_ACCOUNTS = """
[subscriptions.team]
account = "main"
event_filters = ["/team-messaging/v1/posts"]
[subscriptions.others]
account = "other"
event_filters = ["/team-messaging/v1/posts"]
"""
# Blocks the loop, as no handler should, until its file is gone.
PLUGIN = """
import pathlib, time

async def blocking(envelope):
    while pathlib.Path({path!r}).exists():
        time.sleep(0.02)
"""


class Manager(asyncio.DatagramProtocol):
    """Listens as systemd does; every message with its time."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, dict[str, str]]] = []

    def datagram_received(self, data, addr):
        fields = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.messages.append((time.monotonic(), fields))

    def said(self, name):
        """Return all that was said under *name*, in order."""
        return [fields[name] for _, fields in self.messages if name in fields]

    def quiet_s(self, name):
        """Return for how long nothing was said under *name*."""
        return time.monotonic() - max((at for at, fields in self.messages if name in fields), default=0.0)


@pytest.fixture
async def manager(tmp_path, daemon):
    """Be the service manager of *daemon*."""
    path = tmp_path / "notify"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    transport, listening = await asyncio.get_running_loop().create_datagram_endpoint(Manager, sock=listener)
    daemon.environ["NOTIFY_SOCKET"] = str(path)
    daemon.environ["WATCHDOG_USEC"] = str(round(WATCHDOG_S * 1e6))
    yield listening
    transport.close()


async def test_it_is_ready_once_it_receives_and_not_before(simulator, daemon, manager):
    await simulator.admin.faults({"fault": "http-error", "path": "/restapi/oauth/wstoken", "status": 503, "times": 2})
    daemon.start()
    await daemon.wait_line("connection_lost")
    await daemon.wait_until(lambda: any(status.startswith("down: team (") for status in manager.said("STATUS")))
    assert manager.said("READY") == []
    assert manager.said("EXTEND_TIMEOUT_USEC"), "a long start is no failure"

    await daemon.wait_live()
    await daemon.wait_until(lambda: manager.said("READY"))
    await daemon.wait_until(lambda: manager.said("STATUS")[-1] == "live: team")
    assert "next try at" in " ".join(manager.said("STATUS"))

    await simulator.admin.faults({"fault": "drop"})
    await daemon.wait_live(within_s=40)  # the third delay of the ladder may be 20 s
    await daemon.wait_until(lambda: len(manager.said("WATCHDOG")) > 5)
    assert manager.said("READY") == ["1"]
    assert await daemon.stop() == 0


async def test_a_refused_subscription_is_named_and_does_not_keep_the_other_from_being_ready(daemon, manager):
    daemon.accounts += daemon.accounts.replace("main", "other").replace("RC_USER_JWT", "OTHER_JWT")
    daemon.environ["OTHER_JWT"] = "a-wrong-secret-0815"
    daemon.subscriptions = TWO_ACCOUNTS
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY"))
    assert manager.said("STATUS")[-1].startswith("refused: others (")
    assert "OAU-140" in manager.said("STATUS")[-1]
    assert manager.said("STATUS")[-1].endswith("; live: team")
    assert await daemon.stop() == 0
    assert "a-wrong-secret-0815" not in str(manager.messages)


async def test_where_all_is_refused_the_last_status_says_why(daemon, manager):
    daemon.environ["RC_USER_JWT"] = "a-wrong-secret-0815"
    daemon.start()
    assert await daemon.wait_exit() == 77
    await daemon.wait_until(lambda: manager.said("STOPPING"))
    assert manager.said("STATUS")[-1].startswith("refused: team (")
    assert "OAU-140" in manager.said("STATUS")[-1]
    assert "a-wrong-secret-0815" not in str(manager.messages)


async def test_a_hangup_is_a_reload_with_a_beginning_and_an_end(daemon, manager):
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY"))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    daemon.signal(signal.SIGHUP)
    await daemon.wait_until(lambda: len(manager.said("READY")) == 2)
    order = [name for _, fields in manager.messages for name in fields if name in ("RELOADING", "READY")]
    assert order == ["READY", "RELOADING", "READY"]
    assert before <= int(manager.said("MONOTONIC_USEC")[0]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert await daemon.stop() == 0


async def test_a_reload_that_is_refused_is_over_too_and_the_status_says_why_until_the_file_is_right(daemon, manager):
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY"))
    right = daemon.handlers
    daemon.handlers += "no_such_key = 1\n"
    daemon.write_config()
    daemon.signal(signal.SIGHUP)
    await daemon.wait_until(lambda: len(manager.said("READY")) == 2)
    await daemon.wait_until(lambda: manager.said("STATUS")[-1].startswith("live: team; not reloaded: "))
    assert "no_such_key" in manager.said("STATUS")[-1]
    daemon.handlers = right
    daemon.write_config()
    daemon.signal(signal.SIGHUP)
    await daemon.wait_until(lambda: manager.said("STATUS")[-1] == "live: team")
    assert await daemon.stop() == 0


async def test_a_stop_is_announced_with_the_time_it_may_take(daemon, manager):
    daemon.more = "[service]\nshutdown_grace_s = 120\n"
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY"))
    assert await daemon.stop() == 0
    await daemon.wait_until(lambda: manager.said("STOPPING"))
    assert int(manager.said("EXTEND_TIMEOUT_USEC")[-1]) >= 120e6
    assert manager.said("STATUS")[-1].startswith("told to stop")


async def test_the_watchdog_goes_hungry_while_a_handler_blocks_the_loop(simulator, daemon, manager):
    gate = daemon.folder / "blocked"
    gate.touch()
    install_plugin(daemon, gate)
    daemon.handlers += '[handlers.bad]\nuse = "blocking"\n'
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY") and manager.said("WATCHDOG"))
    simulator.emit_sample("post.added")
    await daemon.wait_until(lambda: manager.quiet_s("WATCHDOG") > 2 * WATCHDOG_S)
    gate.unlink()
    await daemon.wait_until(lambda: manager.quiet_s("WATCHDOG") < WATCHDOG_S)


def install_plugin(daemon, gate):
    site = daemon.folder / "site"
    info = site / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme.py").write_text(PLUGIN.format(path=str(gate)))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rc_push.handlers]\nblocking = acme:blocking\n")
    known = os.environ.get("PYTHONPATH")
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([known] if known else [])])


async def test_the_watchdog_goes_hungry_while_the_journal_cannot_commit(daemon, manager):
    daemon.start()
    await daemon.wait_until(lambda: manager.said("READY") and manager.said("WATCHDOG"))
    with contextlib.closing(sqlite3.connect(daemon.journal_path, isolation_level=None)) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        await daemon.wait_until(lambda: manager.quiet_s("WATCHDOG") > 2 * WATCHDOG_S)
        withheld = await daemon.wait_line("watchdog_withheld")
        assert "the journal does not answer" in withheld["reason"]
        intruder.execute("ROLLBACK")
    await daemon.wait_until(lambda: manager.quiet_s("WATCHDOG") < WATCHDOG_S)
    assert await daemon.stop() == 0


async def test_without_a_service_manager_it_runs_as_ever(daemon):
    daemon.start()
    await daemon.wait_live()
    daemon.signal(signal.SIGHUP)
    await daemon.wait_line("reopen")
    assert await daemon.stop() == 0
