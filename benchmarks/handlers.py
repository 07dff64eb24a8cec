"""What do many events and many handlers cost? The daemon with a backlog, ten handlers, one that hangs.

Used by `bench.py`; the journals are made with rc-push's own store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import stage

from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
PAYLOAD = (
    b'{"uuid":"%d","event":"/team-messaging/v1/posts","timestamp":"2026-11-23T10:00:00.120Z","subscriptionId":"2db5",'
    b'"ownerId":"233676004","body":{"id":"%d","groupId":"%d","text":"%b","eventType":"PostAdded"}}'
)
AT_ONCE = 1024


def make_journal(path: Path, count: int, *, behind: int = 0, handler: str = "bench", bytes_: int = 800) -> None:
    """Make a journal of *count* events with texts of *bytes_*; *handler* has the last *behind* of them to do."""
    now_ms = round(time.time() * 1000)
    with closing(Store(path)) as store:
        for first in range(1, count + 1, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count + 1))
            events = [
                Envelope(str(n), "post.added", PAYLOAD % (n, n, n % 97, b"x" * bytes_), SOURCE, now_ms - count + n)
                for n in numbers
            ]
            with store.transaction():
                store.append(Batch("team", events))
        with store.transaction():
            store.progress.register(handler, count - behind, store.head())


def backlog(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second that a handler which does nothing takes from a backlog of *count*."""
    rates = []
    for number in range(rounds):
        stage.note(f"a backlog of {count:,}, round {number + 1} of {rounds}")
        with stage.simulator() as ready, TemporaryDirectory() as folder:
            make_journal(Path(folder) / "journal.db", count, behind=count)
            with stage.daemon(ready, Path(folder), count):
                report = stage.wait_report(Path(folder) / "report.json")
        rates.append((count - 1) / report["seconds"])
    return [stage.row(f"a backlog of {count:,} handed over, one no-op handler", rates, "events/s")]


def backlog_memory(count: int, within_s: float) -> list[stage.type_of_row]:
    """Memory while a handler that does nothing takes a backlog of *count*."""
    stage.note(f"memory over a backlog of {count:,}")
    with stage.simulator() as ready, TemporaryDirectory() as folder:
        make_journal(Path(folder) / "journal.db", count, behind=count)
        with stage.daemon(ready, Path(folder), count) as process:
            samples = stage.memory_until((Path(folder) / "report.json").exists, process.pid, within_s)
    return stage.memory_rows(f"a backlog of {count:,} handed over", samples)


def many_handlers(counts: Sequence[int], events: int, rounds: int) -> list[stage.type_of_row]:
    """Processor time of so many handlers, each of *counts*, by that of one."""
    ratios: dict[int, list[float]] = {count: [] for count in counts}
    many = {"count": events, "bytes": 1024, "ratePerS": 5000}
    for number in range(rounds):
        stage.note(f"one and {', '.join(map(str, counts))} handlers, round {number + 1} of {rounds}")
        one_s = taken(many, "")["cpuS"]
        for count in counts:
            more = "".join(f'[handlers.more{n}]\nuse = "noop"\n' for n in range(count - 1))
            ratios[count].append(taken(many, more)["cpuS"] / one_s)
    return [
        stage.row(f"processor time with {count} no-op handlers by that with one, 5 000 events/s", found, "times")
        for count, found in ratios.items()
    ]


def beside_one_that_hangs(events: int, rounds: int) -> list[stage.type_of_row]:
    """Events per second beside a handler that hangs by those without it."""
    ratios = []
    many = {"count": events, "bytes": 1024}
    for number in range(rounds):
        stage.note(f"one that hangs, round {number + 1} of {rounds}")
        alone, beside = (
            1 / taken(many, text)["seconds"] for text in ("", '[handlers.stuck]\nuse = "hang"\ntimeout_s = 1000\n')
        )
        ratios.append(beside / alone)
    return [stage.row("events/s beside a handler that hangs by those without it", ratios, "times")]


def taken(many: dict[str, Any], more: str) -> stage.type_of_row:
    """Return the report of a daemon that takes *many*, with *more* in its file."""
    with stage.simulator() as ready:
        return stage.daemon_round(ready, many, more=more)
