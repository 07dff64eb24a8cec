"""Do the operations do the same with a daemon and on a journal that nobody uses, and refuse the same requests?"""

from __future__ import annotations

import time
from contextlib import closing

import msgspec
import pytest

from rc_push.config import HandlerConfig
from rc_push.dispatch import Dispatcher, replay
from rc_push.dispatch.replay import Selection
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import ConfigError, RcPushError
from rc_push.handlers import adapt
from rc_push.journal import Journal, Store
from rc_push.journal.progress import Advance, Unfinished
from rc_push.operations import OfflineOperations, Operations

SOURCE = Source("main", "team", "fake")
EVENTS = [Envelope(str(n), "post.added", b"{}", SOURCE, n * 1000) for n in range(1, 7)]
PARKED = {at: Unfinished(at, "parked", False, "", 1, 1, 0, 0, None, "why") for at in (2, 4)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store, store.transaction():
        store.progress.register("h", None, 0)
        store.append(Batch("team", EVENTS))
        store.progress.save("h", Advance(6, delivered=4, unfinished=PARKED))
    return path


async def handle(envelope):
    """Be done with it."""


async def with_daemon(path, op, fields, in_file=()):
    """Ask a daemon whose handler is not running, so that nothing is done beside what was asked for."""
    async with Journal(path) as journal:
        dispatcher = Dispatcher(HandlerConfig("h", "log"), adapt("h", handle), journal)
        await dispatcher.register()
        return await Operations([dispatcher], journal, in_file).table()[op](fields)


async def without(path, op, fields):
    with closing(Store(path)) as store:
        return OfflineOperations(store).run(op, fields)


@pytest.fixture(params=[with_daemon, without], ids=["daemon", "no daemon"])
def ask(request, path):
    """Return a coroutine function that asks for an operation, in both ways."""

    async def ask(op, **fields):
        return await request.param(path, op, fields)

    return ask


@pytest.fixture
def rows(path):
    def rows(change):
        with closing(Store(path)) as store, store.transaction():
            return change(store.progress)

    return rows


async def test_a_pause_is_kept(ask, rows):
    await ask("handlers.pause", handler="h")
    assert rows(lambda progress: progress.register("h", None, 0)).is_paused
    await ask("handlers.resume", handler="h")
    assert not rows(lambda progress: progress.register("h", None, 0)).is_paused


@pytest.mark.parametrize(("positions", "left"), [(None, set()), ([2, 3, 99], {4}), ([], {2, 4})])
async def test_what_is_parked_waits_again_or_is_dropped(ask, rows, positions, left):
    assert await ask("handlers.retry", handler="h", positions=positions) == 2 - len(left)
    assert rows(lambda progress: progress.parked_positions("h")) == left
    assert await ask("parked.drop", handler="h", positions=None) == len(left)
    assert rows(lambda progress: progress.parked_positions("h")) == set()
    assert {row.position for row in rows(lambda progress: progress.waiting("h"))} == {2, 4} - left


@pytest.mark.parametrize("positions", [None, [4, 2, 3]])
async def test_many_that_are_parked_are_asked_for_again_as_a_replay(ask, rows, monkeypatch, positions):
    monkeypatch.setattr(replay, "RETRY_AT_ONCE", 1)
    assert await ask("handlers.retry", handler="h", positions=positions) == 2
    (kept,) = rows(lambda progress: progress.replays("h"))
    selection = Selection(positions and frozenset({2, 4}), is_retry=True)
    assert (kept.position, kept.until, Selection.from_json(kept.selection)) == (1, 4, selection)
    assert rows(lambda progress: progress.parked_positions("h")) == {2, 4}


@pytest.mark.parametrize(
    ("fields", "span", "selection"),
    [
        ({"positions": [5, 3]}, (2, 5), Selection(frozenset({3, 5}))),
        ({"positions": [99]}, (98, 6), Selection(frozenset({99}))),
        ({}, (0, 6), Selection()),
        ({"sinceMs": 3000, "untilMs": 5000}, (2, 4), Selection()),
        ({"types": ["post.*"], "where": "true"}, (0, 6), Selection(types=("post.*",), where="true")),
    ],
)
async def test_a_replay_is_kept_with_its_span_and_selection(ask, rows, fields, span, selection):
    before_ms = round(time.time() * 1000)
    answer = await ask("replay", handler="h", rate=2.5, **fields)
    (kept,) = rows(lambda progress: progress.replays("h"))
    assert answer == {"id": kept.id, "handler": "h", "after": span[0], "until": span[1]}
    assert (kept.position, kept.until, Selection.from_json(kept.selection), kept.rate) == (*span, selection, 2.5)
    assert kept.asked_at_ms >= before_ms


@pytest.mark.parametrize("op", ["handlers.pause", "handlers.resume", "handlers.retry", "parked.drop", "replay"])
async def test_a_handler_that_nobody_knows_is_refused_with_those_that_there_are(ask, op):
    with pytest.raises(RcPushError, match="there is no handler 'nobody'; there are: h"):
        await ask(op, handler="nobody")


@pytest.mark.parametrize("op", ["handlers.pause", "handlers.resume", "handlers.retry", "replay"])
async def test_of_a_handler_that_does_not_run_a_daemon_says_so(path, rows, op):
    rows(lambda progress: progress.register("old", None, 0))
    with pytest.raises(RcPushError, match="the handler old does not run; enable it"):
        await with_daemon(path, op, {"handler": "old"})


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("handlers.pause", {}),
        ("handlers.pause", {"handler": 7}),
        ("handlers.retry", {"handler": "h", "positions": ["2"]}),
        ("handlers.retry", {"handler": "h", "postions": [2]}),
        ("parked.drop", {"handler": "h", "positions": 2}),
        ("replay", {"handler": "h", "rate": 0}),
        ("replay", {"handler": "h", "since_ms": 0}),
        ("handlers.forget", {"handler": None}),
    ],
)
async def test_a_request_that_is_not_as_it_has_to_be_is_refused_and_changes_nothing(ask, rows, op, fields):
    with pytest.raises(msgspec.ValidationError):
        await ask(op, **fields)
    assert rows(lambda progress: progress.parked_positions("h")) == {2, 4}


@pytest.mark.parametrize("where", ["body.text ==", "", "nosuch(body)"])
async def test_a_replay_with_an_expression_that_cannot_be_used_is_refused_and_not_kept(ask, rows, where):
    with pytest.raises(ConfigError, match="where"):
        await ask("replay", handler="h", where=where)
    assert rows(lambda progress: progress.replays("h")) == []


async def test_only_a_handler_that_does_not_run_can_be_forgotten(path, rows):
    with pytest.raises(RcPushError, match="the handler h is in the daemon's file; take it out"):
        await with_daemon(path, "handlers.forget", {"handler": "h"})
    await without(path, "handlers.forget", {"handler": "h"})
    assert rows(lambda progress: progress.names()) == []


async def test_a_handler_that_is_only_disabled_is_not_forgotten_before_it_has_left_the_file(path, rows):
    rows(lambda progress: progress.register("idle", 0, 0))
    with pytest.raises(RcPushError, match="the handler idle is in the daemon's file; take it out"):
        await with_daemon(path, "handlers.forget", {"handler": "idle"}, in_file=["h", "idle"])
    assert "idle" in rows(lambda progress: progress.names())
    await with_daemon(path, "handlers.forget", {"handler": "idle"}, in_file=["h"])
    assert "idle" not in rows(lambda progress: progress.names())


async def test_without_a_daemon_all_can_be_asked_for_but_what_only_a_daemon_knows(path):
    async with Journal(path) as journal:
        ops = set(Operations([], journal, ()).table())
    for op in ops - {"handlers"}:
        with pytest.raises(msgspec.ValidationError):
            await without(path, op, {})


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("handlers.retry", {"positions": [1 << 63]}),
        ("parked.drop", {"positions": [2, -(1 << 63) - 1]}),
        ("replay", {"sinceMs": 1 << 63}),
        ("replay", {"untilMs": 10**40}),
    ],
)
async def test_a_number_that_the_journal_cannot_hold_is_a_mistake_in_the_request(ask, op, fields):
    with pytest.raises(msgspec.ValidationError, match="int"):
        await ask(op, handler="h", **fields)
