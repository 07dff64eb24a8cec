"""What do the authors of handlers need to test them? Envelopes, a run without a daemon, a simulator.

    from rc_push.testing import envelope, run_handler

    def test_a_post_becomes_a_ticket():
        result = run_handler(Tickets(settings), [envelope("post.added", body={"text": "Help!"})])
        assert [e.body["text"] for e in result.delivered] == ["Help!"]

    def test_with_everything(simulator):        # a fixture of pytest, once rc-push is installed
        simulator.emit("post.added")

`run_handler` applies the daemon's own rules of order, retries and parking, on a journal of its own; its clock does not
wait. Knows the dispatcher and the simulator; nothing of the daemon imports it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from rc_push.config import HandlerConfig
from rc_push.dispatch import Dispatcher
from rc_push.envelope import Batch, Envelope, Source, Unreadable
from rc_push.handlers import adapt
from rc_push.journal import Journal
from rc_push.payload import envelope_from_payload
from rc_push.simulator.people import EXTENSION_ID
from rc_push.simulator.samples import SAMPLES, sample
from rc_push.simulator.server import Simulator

# What `run_handler` takes, in real time, before it says that the handler hangs.
WITHIN_S = 30.0

_numbers = itertools.count(1)


def envelope(type_: str = "post.added", *, body: dict[str, Any] | None = None, **fields: Any) -> Envelope:
    """Return a realistic event of *type_*, one of those that `rc-push trigger` knows.

    *body* is laid over the sample's body; *fields* replace RingCentral's own (`uuid`, `event`, `timestamp`,
    `subscriptionId`, `ownerId`) or say where it came from (`account`, `subscription`, `transport`, `origin`). Each has
    a uuid of its own. Raises ValueError for a type or field that there is not.
    """
    if type_ not in SAMPLES:
        raise ValueError(f"{type_!r} is none of {', '.join(SAMPLES)}")
    number = next(_numbers)
    event, made = sample(type_, number)
    whence = {name: fields.pop(name) for name in ("account", "subscription", "transport", "origin") if name in fields}
    source = msgspec.structs.replace(Source("main", "team", "websocket"), **whence)
    payload = {
        "uuid": str(6_452_004_109_000_000_000 + number),
        "event": event,
        "timestamp": "2026-01-01T12:00:00.000Z",
        "subscriptionId": "2db5b5f4-0000-4000-8000-000000000001",
        "ownerId": EXTENSION_ID,
        "body": made | (body or {}),
    }
    if unknown := fields.keys() - payload.keys():
        raise ValueError(f"RingCentral's events have no {', '.join(sorted(unknown))}")
    received_at_ms = round(time.time() * 1000)
    read = envelope_from_payload(json.dumps(payload | fields).encode(), source, received_at_ms)
    if isinstance(read, Unreadable):
        raise ValueError(f"that would be no event: {read.reason}")  # noqa: TRY004 - what was given has no such value
    return msgspec.structs.replace(read, position=number)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that the handler was not handed again: the *reason*, and the number of counted *attempts*."""

    envelope: Envelope
    reason: str
    attempts: int


@dataclass(slots=True)
class Result:
    """What became of the events. *calls*: every envelope of every call, in order. *slept_s*: the delays of retries."""

    delivered: list[Envelope] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    calls: list[Envelope] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)


def run_handler(handler: Any, envelopes: Sequence[Envelope], **rules: Any) -> Result:
    """Hand *envelopes* over to *handler*, an object with `handle` or a function, until each is done or parked.

    *rules* are the keys of a handler's table in the file: `order`, `concurrency`, `timeout_s`, `types`, `where` …, and
    `retry` as a dict. Where the handler is a context manager, it is opened before and closed after. Retries do not
    wait: time is made up. Works inside of a running event loop, too. Raises ConfigError, HandlerError, TimeoutError.
    """
    config = msgspec.convert({"name": "handler", "use": "", **rules}, HandlerConfig)
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(_run(config, handler, envelopes)))
        except BaseException as exc:  # noqa: BLE001 - handed to the caller
            failures.append(exc)

    thread = threading.Thread(target=run, name="run-handler")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


async def _run(config: HandlerConfig, handler: Any, envelopes: Sequence[Envelope]) -> Result:
    result, clock = Result(), _Clock()
    loaded = _Recorded(adapt(config.name, handler, config.concurrency), result)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rc-push-testing-"))
        journal = await stack.enter_async_context(Journal(Path(folder) / "journal.db"))
        await loaded.handler.open()
        stack.push_async_callback(loaded.handler.close)
        given = [_as_new(one, number) for number, one in enumerate(envelopes, 1)]
        dispatcher = Dispatcher(
            config, loaded.adapted(), journal, grace_s=0.0, sleep=clock.sleep, wall=clock.wall, now=clock.now
        )
        await dispatcher.register()
        for one in given:
            await journal.append(Batch(one.subscription, [one]))
        async with asyncio.timeout(WITHIN_S):
            await _until_settled(dispatcher, journal.head)
        parked = await journal.change_progress(lambda rows: rows.parked(config.name))
        by_position = dict(enumerate(envelopes, 1))
        result.parked = [Parked(by_position[row.position], row.reason, row.attempts) for row in parked]
        result.slept_s = clock.slept_s
    gone = {id(one.envelope) for one in result.parked}
    done = {one.uuid for one in result.calls}
    result.delivered = [one for one in envelopes if id(one) not in gone and one.uuid in done]
    return result


def _as_new(one: Envelope, position: int) -> Envelope:
    """Return *one* as it would be received."""
    return msgspec.structs.replace(one, position=position)


async def _until_settled(dispatcher: Dispatcher, head: int) -> None:
    """Run *dispatcher* until all up to *head* is done or parked, and noted."""
    running = asyncio.create_task(dispatcher.run())
    try:
        while not running.done():
            about = dispatcher.statistics()
            if about.position >= head and not about.waiting and not about.in_hand:
                break
            await asyncio.sleep(0.001)
    finally:
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()


class _Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._passed_s = 0.0
        self._began_at = time.time()

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        await asyncio.sleep(0)
        self._passed_s += delay_s

    def now(self) -> float:
        return self._passed_s

    def wall(self) -> float:
        return self._began_at + self._passed_s


class _Recorded:
    """A loaded handler whose calls are remembered."""

    def __init__(self, handler: Any, result: Result) -> None:
        self.handler = handler
        self._result = result

    def adapted(self) -> Any:
        """Return the handler in the dispatcher's shape."""
        batch = self._handle_batch if self.handler.handle_batch else None
        return replace(self.handler, handle=self._handle, handle_batch=batch)

    async def _handle(self, one: Envelope) -> None:
        self._result.calls.append(one)
        await self.handler.handle(one)

    async def _handle_batch(self, several: Sequence[Envelope]) -> None:
        self._result.calls += several
        await self.handler.handle_batch(several)


# ------------------------------------------------------------------------------------------------------------ simulator


class SimulatorThread:
    """A RingCentral on loopback, in a thread of its own, for tests that know nothing of asyncio."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._simulator = Simulator()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()
        self._call(self._simulator.__aenter__())

    def stop(self) -> None:
        """Stop it."""
        self._call(self._simulator.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def ready(self) -> dict[str, str]:
        """Where it is and how to log in, as `rc-push simulate` prints it."""
        return self._simulator.ready

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon without `[accounts]` in its file needs in its environment."""
        ready = self.ready
        return {
            "RC_SERVER_URL": ready["server"],
            "RC_APP_CLIENT_ID": ready["clientId"],
            "RC_APP_CLIENT_SECRET": ready["clientSecret"],
            "RC_USER_JWT": ready["jwt"],
        }

    def emit(self, type_: str, body: dict[str, Any] | None = None) -> str:
        """Emit an event of *type_*, *body* laid over the sample's; return its uuid."""
        event, made = sample(type_, next(_numbers))

        async def emit() -> str:
            return self._simulator.emit(event, made | (body or {}))

        uuid: str = self._call(emit())
        return uuid

    def fault(self, fault: str, **more: Any) -> None:
        """Let it misbehave, as `POST /simulator/faults` does."""
        self._call(self._simulator.admin.faults({"fault": fault, **more}))

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return len(self._simulator.state.subscriptions)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)
