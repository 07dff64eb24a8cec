"""What runs together: is each part ready before anybody can ask for it?"""

from __future__ import annotations

import asyncio
from contextlib import closing

import msgspec
import pytest
from structlog.testing import capture_logs

from rc_push.app import App
from rc_push.config import Config, HandlerConfig, JournalConfig, LogConfig, NetworkConfig, ServiceConfig, load
from rc_push.control.client import call
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import ConfigError, RcPushError
from rc_push.journal import Advance, Store, Unfinished

SOURCE = Source("main", "team", "websocket")
# Nobody is there who could be asked for a subscription.
FILE = """
[accounts.main]
server = "http://127.0.0.1:1"
access_token = "x"
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[journal]
path = "{folder}/journal.db"
"""


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


async def test_at_the_start_the_mistakes_of_all_handlers_are_told_with_their_lines(config, tmp_path):
    path = tmp_path / "rc-push.toml"
    path.write_text("[handlers.a]\nuse = 'fiel'\n[handlers.b]\nuse = 'log'\nlevle = 'info'\n")
    wrong = {"a": HandlerConfig("a", "fiel"), "b": HandlerConfig("b", "log", settings={"levle": "info"})}
    with pytest.raises(ConfigError) as caught:
        async with App.open(msgspec.structs.replace(config, handlers=wrong, path=path)):
            pass
    assert caught.value.path == str(path)
    told = [(problem.line, problem.key) for problem in caught.value.problems]
    assert told == [(2, "handlers.a.use"), (5, "handlers.b.levle")]


async def test_a_handler_that_is_first_seen_while_not_enabled_begins_where_it_says_once_it_is(tmp_path):
    path = tmp_path / "rc-push.toml"
    new = "[handlers.new]\nuse = 'log'\nstart = 'beginning'\nenabled = {}\n"
    path.write_text(FILE.format(folder=tmp_path))
    with capture_logs():
        async with App.open(load(path, {})[0]) as app:
            await app.journal.append(Batch("team", [Envelope("1", "other", b"{}", SOURCE, 5)]))
        for enabled in ("false", "true"):
            path.write_text(FILE.format(folder=tmp_path) + new.format(enabled))
            async with App.open(load(path, {})[0]) as app:
                assert (app.journal.head, (await app.journal.register_handler("new")).position) == (1, 0)


async def test_a_handler_can_be_forgotten_once_a_reload_has_found_that_it_has_left_the_file(tmp_path):
    """One that is not enabled does not run, and keeps what it has not finished for when it is enabled again."""
    path, idle = tmp_path / "rc-push.toml", "[handlers.idle]\nuse = 'log'\nenabled = false\n"
    path.write_text(FILE.format(folder=tmp_path) + idle)
    config, _ = load(path, {})
    with capture_logs():
        async with App.open(config) as app:
            running = asyncio.ensure_future(app.run())
            forget = app.operations()["handlers.forget"]
            with pytest.raises(RcPushError, match="take it out of the file"):
                await forget({"handler": "idle"})
            path.write_text(FILE.format(folder=tmp_path))
            await app.reload()
            await forget({"handler": "idle"})
            path.write_text(FILE.format(folder=tmp_path) + idle)
            await app.reload()
            with pytest.raises(RcPushError, match="take it out of the file"):
                await forget({"handler": "idle"})
            running.cancel()
            await asyncio.wait([running])
