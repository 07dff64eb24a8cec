"""How fast do events leave? The `forward` handler to a receiver in a process of its own, and the `file` handler.

Used by `bench.py`. The receiver shares the simulator's processor, the daemon has its own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench
from handlers import make_journal

from rc_push.journal import Reader
from rc_push.journal.fates import handler_rows

CONCURRENCY = 16
# Until what is open only while events come is closed: connections that are kept, readers of the journal.
IDLE_AGAIN_S = 4.0


def forwarding(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second from a backlog to the receiver, and the time from sending to receipt at 500/s."""
    rates, p50, p99 = [], [], []
    for number in range(rounds):
        bench.note(f"forward, round {number + 1} of {rounds}")
        rates.append((count - 1) / float(forward_backlog(count)["seconds"]))
        times_ms = sorted(forward_live({"count": 2500, "bytes": 1024, "ratePerS": 500})["latenciesMs"])
        p50.append(times_ms[len(times_ms) // 2])
        p99.append(times_ms[int(len(times_ms) * 0.99)])
    return [
        bench.row(f"forward to loopback, concurrency {CONCURRENCY}, 1 KB", rates, "events/s"),
        bench.row("forward, sent to received at 500/s, p50", p50, "ms"),
        bench.row("forward, sent to received at 500/s, p99", p99, "ms"),
    ]


def forward_backlog(count: int) -> dict[str, Any]:
    """Return the receiver's report of a backlog."""
    with bench.simulator() as ready, TemporaryDirectory() as folder, receiver(count, Path(folder)) as handler:
        make_journal(Path(folder) / "journal.db", count, handler="hook", behind=count)
        with bench.daemon(ready, Path(folder), 1, more=handler):
            return bench.wait_report(Path(folder) / "received.json")


def forward_live(many: dict[str, Any]) -> dict[str, Any]:
    """Return the receiver's report of events that come while it waits."""
    with (
        bench.simulator() as ready,
        TemporaryDirectory() as folder,
        receiver(many["count"], Path(folder)) as handler,
        bench.daemon(ready, Path(folder), 1, more=handler),
    ):
        bench.wait_for(lambda: bench.subscribed(ready), "a subscription")
        time.sleep(0.5)
        bench.post(ready, "/simulator/events", many)
        return bench.wait_report(Path(folder) / "received.json")


def forward_descriptors(count: int) -> list[dict[str, Any]]:
    """How many more descriptors the daemon has after *count* events than after the first ones."""
    bench.note(f"forward, {count:,} events")
    first = {"count": 1000, "bytes": 1024}
    with (
        bench.simulator() as ready,
        TemporaryDirectory() as folder,
        receiver(first["count"] + count, Path(folder)) as handler,
        bench.daemon(ready, Path(folder), 1, more=handler) as process,
    ):
        bench.wait_for(lambda: bench.subscribed(ready), "a subscription")
        bench.post(ready, "/simulator/events", first)
        time.sleep(IDLE_AGAIN_S)
        before = descriptors(process.pid)
        bench.post(ready, "/simulator/events", first | {"count": count})
        bench.wait_report(Path(folder) / "received.json")
        time.sleep(IDLE_AGAIN_S)
        left = float(descriptors(process.pid) - before)
    return [bench.row(f"forward, descriptors left after {count:,} events", [left], "")]


def descriptors(pid: int) -> int:
    """Return how many a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def receiver(count: int, folder: Path) -> Iterator[str]:
    """Run the receiver; give the table of the handler that forwards to it."""
    command = [sys.executable, str(bench.HERE / "receiver.py"), str(count), str(folder / "received.json")]
    with bench.running(command, bench.SIMULATOR_CPU, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield f'[handlers.hook]\nuse = "forward"\nurl = "http://127.0.0.1:{port}/"\nconcurrency = {CONCURRENCY}\n'


def filing(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second from a backlog to a file, flushed to the disk with each batch."""
    rates = []
    for number in range(rounds):
        bench.note(f"file, round {number + 1} of {rounds}")
        with bench.simulator() as ready, TemporaryDirectory() as folder:
            path = Path(folder) / "journal.db"
            make_journal(path, count, handler="lines", behind=count)
            handler = f'[handlers.lines]\nuse = "file"\npath = "{folder}/events.jsonl"\n'
            with bench.daemon(ready, Path(folder), 1, more=handler), closing(Reader(path)) as reader:
                rates.append(drained_per_s(reader, "lines", count))
    return [bench.row("file handler, fsync with each batch, 1 KB", rates, "events/s")]


def drained_per_s(reader: Reader, handler: str, count: int) -> float:
    """Return the rate from the first events that are noted as done, which leaves the start out, to the last."""
    bench.wait_for(lambda: pending(reader, handler) < count, f"the first event of {handler}")
    began, rest = time.monotonic(), pending(reader, handler)
    bench.wait_for(lambda: pending(reader, handler) == 0, f"the last event of {handler}", bench.ROUND_WITHIN_S)
    return rest / (time.monotonic() - began)


def pending(reader: Reader, handler: str) -> int:
    """Return how many events *handler* has to do."""
    with reader.snapshot() as db:
        return next(row.pending for row in handler_rows(db) if row.handler == handler)
