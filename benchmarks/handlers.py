"""What do many events and many handlers cost? The daemon with a large journal, a backlog, ten handlers, one that hangs.

Used by `bench.py`; the journals are made with rc-push's own store.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench

from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
PAYLOAD = (
    b'{"uuid":"%d","event":"/team-messaging/v1/posts","timestamp":"2026-11-23T10:00:00.120Z","subscriptionId":"2db5",'
    b'"ownerId":"233676004","body":{"id":"%d","groupId":"%d","text":"%b","eventType":"PostAdded"}}'
)
AT_ONCE = 1024


def make_journal(path: Path, count: int, *, behind: int = 0, handler: str = "bench") -> None:
    """Make a journal of *count* events of 1 KB, received until now; *handler* has the last *behind* of them to do."""
    now_ms = round(time.time() * 1000)
    with closing(Store(path)) as store:
        for first in range(1, count + 1, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, count + 1))
            events = [
                Envelope(str(n), "post.added", PAYLOAD % (n, n, n % 97, b"x" * 800), SOURCE, now_ms - count + n)
                for n in numbers
            ]
            with store.transaction():
                store.append(Batch("team", events))
        with store.transaction():
            store.progress.register(handler, count - behind, store.head())


def large_journal(count: int) -> list[dict[str, Any]]:
    """Start, memory and commands of a daemon whose journal holds *count* events."""
    bench.note(f"a journal of {count:,} events")
    with bench.simulator() as ready, TemporaryDirectory() as folder:
        make_journal(Path(folder) / "journal.db", count)
        began = time.monotonic()
        with bench.daemon(ready, Path(folder), 1) as process:
            bench.wait_for(lambda: bench.subscribed(ready), "a subscription")
            started_s = time.monotonic() - began
            time.sleep(2)
            rss = bench.status_kib(process.pid, "VmHWM") / bench.MIB
            took = {name: [timed(folder, name) for _ in range(5)] for name in ("events", "handlers")}
    return [
        bench.row(f"start to subscribed, {count:,} events in the journal", [started_s], "s"),
        bench.row(f"peak memory, {count:,} events in the journal", [rss], "MiB"),
        *(bench.row(f"`rc-push {name}`, {count:,} events in the journal", ms, "ms") for name, ms in took.items()),
    ]


def timed(folder: str, command: str) -> float:
    """Return how long a command takes, in ms."""
    words = [sys.executable, "-m", "rc_push", "-c", f"{folder}/rc-push.toml", command]
    began = time.monotonic()
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1000


def backlog(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second that a handler which does nothing takes from a backlog of *count*."""
    rates = []
    for number in range(rounds):
        bench.note(f"a backlog of {count:,}, round {number + 1} of {rounds}")
        with bench.simulator() as ready, TemporaryDirectory() as folder:
            make_journal(Path(folder) / "journal.db", count, behind=count)
            with bench.daemon(ready, Path(folder), count):
                report = bench.wait_report(Path(folder) / "report.json")
        rates.append((count - 1) / report["seconds"])
    return [bench.row(f"a backlog of {count:,} handed over, one no-op handler", rates, "events/s")]


def ten_handlers(events: int, rounds: int) -> list[dict[str, Any]]:
    """Processor time of ten handlers by that of one; the rate beside a handler that hangs by that without."""
    ten_by_one, beside = [], []
    for number in range(rounds):
        bench.note(f"ten handlers, one that hangs, round {number + 1} of {rounds}")
        many = {"count": events, "bytes": 1024, "ratePerS": 5000}
        one_s = cpu_s(many, "")
        ten_s = cpu_s(many, "".join(f'[handlers.more{n}]\nuse = "noop"\n' for n in range(9)))
        ten_by_one.append(ten_s / one_s)
        full = {"count": events * 2, "bytes": 1024}
        alone = rate(full, "")
        beside.append(rate(full, '[handlers.stuck]\nuse = "hang"\ntimeout_s = 1000\n') / alone)
    return [
        bench.row("processor time with ten no-op handlers by that with one, 5 000 events/s", ten_by_one, "times"),
        bench.row("events/s beside a handler that hangs by those without it", beside, "times"),
    ]


def cpu_s(many: dict[str, Any], more: str) -> float:
    """Return the processor time that the daemon takes for *many*, its start left out."""
    with (
        bench.simulator() as ready,
        TemporaryDirectory() as folder,
        bench.daemon(ready, Path(folder), many["count"], more=more) as process,
    ):
        bench.wait_for(lambda: bench.subscribed(ready), "a subscription")
        time.sleep(0.5)
        before = spent_s(process.pid)
        bench.post(ready, "/simulator/events", many)
        bench.wait_report(Path(folder) / "report.json")
        time.sleep(0.5)
        return spent_s(process.pid) - before


def rate(many: dict[str, Any], more: str) -> float:
    """Return the events per second of the handler `bench`."""
    with bench.simulator() as ready:
        report, _ = bench.daemon_round(ready, many, more=more)
    return (many["count"] - 1) / float(report["seconds"])


def spent_s(pid: int) -> float:
    """Return the processor time of a process. Source: proc(5), utime and stime in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
