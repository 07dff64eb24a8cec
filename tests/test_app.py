"""What runs together: is each part ready before anybody can ask for it?"""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from rc_push.app import App
from rc_push.config import Config, HandlerConfig, JournalConfig, LogConfig, NetworkConfig, ServiceConfig
from rc_push.control.client import call
from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal import Advance, Store, Unfinished

SOURCE = Source("main", "team", "websocket")


@pytest.fixture
def config(tmp_path):
    """Return a configuration whose handler has parked the second of three events."""
    journal = JournalConfig(tmp_path / "journal.db", 3650.0)
    parked = Unfinished(2, "parked", False, "", 1, 1, 0, 0, None, "why")
    with closing(Store(journal.path)) as store, store.transaction():
        store.progress.register("h", None, 0)
        store.append(Batch("team", [Envelope(str(n), "post.added", b"{}", SOURCE, 0) for n in range(1, 4)]))
        store.progress.save("h", Advance(3, delivered=2, unfinished={2: parked}))
    return Config({}, {}, {"h": HandlerConfig("h", "log")}, journal, NetworkConfig(), LogConfig(), ServiceConfig())


async def test_what_is_asked_for_while_the_daemon_starts_is_done_once(config):
    async def ask(op, **fields):
        return await asyncio.to_thread(call, config.control_path, op, **fields)

    with capture_logs() as logs:
        async with App.open(config) as app:
            assert (await ask("handlers"))[0]["position"] == 3
            assert await ask("handlers.retry", handler="h", positions=None) == 1
            running = asyncio.ensure_future(app.run())
            while not app.statistics().dispatchers[0].delivered:  # noqa: ASYNC110 - nobody but tests waits for it
                await asyncio.sleep(0.01)
            assert (await ask("handlers"))[0]["waiting"] == 0
            running.cancel()
            await asyncio.wait([running])
    assert [line["position"] for line in logs if line["event"] == "event_received"] == [2]
