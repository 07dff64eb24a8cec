"""How fast do events leave? The `forward` handler to a receiver in a process of its own, and the `file` handler.

Used by `bench.py`. The receiver shares the simulator's processor, the daemon has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import stage
from handlers import make_journal

from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.handlers import LoadedHandler, load
from rc_push.journal import Reader
from rc_push.journal.fates import handler_rows

CONCURRENCY = 16
# Until what is open only while events come is closed: connections that are kept, readers of the journal.
IDLE_AGAIN_S = 4.0


def forwarding(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second from a backlog to the receiver, and the time from sending to receipt at 500/s."""
    rates, p50, p99 = [], [], []
    for number in range(rounds):
        stage.note(f"forward, round {number + 1} of {rounds}")
        rates.append((count - 1) / float(forward_backlog(count)["seconds"]))
        times_ms = forward_live({"count": 2500, "bytes": 1024, "ratePerS": 500})["latenciesMs"]
        p50.append(stage.quantile(times_ms, 0.5))
        p99.append(stage.quantile(times_ms, 0.99))
    return [
        stage.row(f"forward to loopback, concurrency {CONCURRENCY}, 1 KB", rates, "events/s"),
        stage.row("forward, sent to received at 500/s, p50", p50, "ms"),
        stage.row("forward, sent to received at 500/s, p99", p99, "ms"),
    ]


def forward_backlog(count: int) -> dict[str, Any]:
    """Return the receiver's report of a backlog."""
    with stage.simulator() as ready, TemporaryDirectory() as folder, receiver(count, Path(folder)) as handler:
        make_journal(Path(folder) / "journal.db", count, handler="hook", behind=count)
        with stage.daemon(ready, Path(folder), 1, more=handler):
            return stage.wait_report(Path(folder) / "received.json")


def forward_live(many: dict[str, Any]) -> dict[str, Any]:
    """Return the receiver's report of events that come while it waits."""
    with (
        stage.simulator() as ready,
        TemporaryDirectory() as folder,
        receiver(many["count"], Path(folder)) as handler,
        stage.daemon(ready, Path(folder), 1, more=handler),
    ):
        stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
        time.sleep(0.5)
        stage.post(ready, "/simulator/events", many)
        return stage.wait_report(Path(folder) / "received.json")


def forward_descriptors(count: int) -> list[dict[str, Any]]:
    """How many more descriptors the daemon has after *count* events than after the first ones."""
    stage.note(f"forward, {count:,} events")
    first = {"count": 1000, "bytes": 1024}
    with (
        stage.simulator() as ready,
        TemporaryDirectory() as folder,
        receiver(first["count"] + count, Path(folder)) as handler,
        stage.daemon(ready, Path(folder), 1, more=handler) as process,
    ):
        stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
        stage.post(ready, "/simulator/events", first)
        time.sleep(IDLE_AGAIN_S)
        before = descriptors(process.pid)
        stage.post(ready, "/simulator/events", first | {"count": count})
        stage.wait_report(Path(folder) / "received.json")
        time.sleep(IDLE_AGAIN_S)
        left = float(descriptors(process.pid) - before)
    return [stage.row(f"forward, descriptors left after {count:,} events", [left], "")]


def descriptors(pid: int) -> int:
    """Return how many a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def receiver(count: int, folder: Path) -> Iterator[str]:
    """Run the receiver; give the table of the handler that forwards to it."""
    command = [sys.executable, str(stage.HERE / "receiver.py"), str(count), str(folder / "received.json")]
    with stage.running(command, stage.SERVER_CPU, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield f'[handlers.hook]\nuse = "forward"\nurl = "http://127.0.0.1:{port}/"\nconcurrency = {CONCURRENCY}\n'


def filing(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second from a backlog to a file, flushed to the disk with each batch."""
    rates = []
    for number in range(rounds):
        stage.note(f"file, round {number + 1} of {rounds}")
        with stage.simulator() as ready, TemporaryDirectory() as folder:
            path = Path(folder) / "journal.db"
            make_journal(path, count, handler="lines", behind=count)
            handler = f'[handlers.lines]\nuse = "file"\npath = "{folder}/events.jsonl"\n'
            with stage.daemon(ready, Path(folder), 1, more=handler), closing(Reader(path)) as reader:
                rates.append(drained_per_s(reader, "lines", count))
    return [stage.row("file handler, fsync with each batch, 1 KB", rates, "events/s")]


def drained_per_s(reader: Reader, handler: str, count: int) -> float:
    """Return the rate from the first events that are noted as done, which leaves the start out, to the last."""
    stage.wait_for(lambda: pending(reader, handler) < count, f"the first event of {handler}")
    began, rest = time.monotonic(), pending(reader, handler)
    stage.wait_for(lambda: pending(reader, handler) == 0, f"the last event of {handler}", stage.ROUND_WITHIN_S)
    return rest / (time.monotonic() - began)


def pending(reader: Reader, handler: str) -> int:
    """Return how many events *handler* has to do."""
    with reader.snapshot() as db:
        return next(row.pending for row in handler_rows(db) if row.handler == handler)


def file_handler(rounds: int, events: int = 100_000) -> list[dict[str, Any]]:
    """Events per second that the `file` handler takes, each batch flushed; and what it leaves open."""
    source = Source("main", "team", "websocket")
    payload = b'{"uuid":"6452004109062593690","event":"/team-messaging/v1/posts","body":{"text":"%b"}}' % (b"x" * 930)
    batch = [Envelope("6452004109062593690", "post.added", payload, source, 0, number) for number in range(256)]
    settings: dict[str, dict[str, object]] = {
        "one file": {"path": "events.jsonl"},
        "path with {type} and {date}, rotated at 16 MiB": {
            "path": "{type}-{date}.jsonl",
            "rotate_bytes": 16 << 20,
            "gzip": False,
        },
    }
    rates: dict[str, list[float]] = {name: [] for name in settings}
    left = []
    for number in range(rounds):
        stage.note(f"file handler, round {number + 1} of {rounds}")
        for name, more in settings.items():
            before = len(list(Path("/proc/self/fd").iterdir()))
            with TemporaryDirectory(dir=stage.HERE) as folder:
                config = HandlerConfig("events", "file", settings=more | {"path": f"{folder}/{more['path']}"})
                rates[name].append(events / asyncio.run(hand_over(load(config), batch, events)))
            left.append(float(len(list(Path("/proc/self/fd").iterdir())) - before))
    rows = [
        stage.row(f"file handler, batches of 256 flushed, {name}", values, "events/s") for name, values in rates.items()
    ]
    return [*rows, stage.row(f"file handler, descriptors left after {events:,} events", left, "")]


async def hand_over(handler: LoadedHandler, batch: list[Envelope], events: int) -> float:
    """Hand *batch* over until it were so many *events*; return how many seconds it took."""
    assert handler.handle_batch is not None
    await handler.open()
    began = time.perf_counter()
    for _ in range(-(-events // len(batch))):
        await handler.handle_batch(batch)
    took_s = time.perf_counter() - began
    await handler.close()
    return took_s
