"""What do those who watch cost? `status` and the metrics while events come, and the whole command.

Used by `bench.py`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import stage
from handlers import make_journal

from rc_push.cli.status import EXIT_CODES
from rc_push.control.client import call
from rc_push.errors import EXIT_OK

CALLS, SCRAPES = 1000, 200
PER_S = 1000
BEHIND = 10
COMMANDS = ("status", "tail", "events", "handlers")


def watching(rounds: int) -> list[dict[str, Any]]:
    """How long `status` over the socket and a scrape of the metrics take at 1000 events/s."""
    p50, p99, scrapes = [], [], []
    for number in range(rounds):
        stage.note(f"watching, round {number + 1} of {rounds}")
        port = stage.free_port()
        with (
            stage.simulator() as ready,
            TemporaryDirectory() as folder,
            stage.daemon(ready, Path(folder), 1, more=f'[web]\nlisten = "127.0.0.1:{port}"\n'),
        ):
            stage.wait_for(lambda ready=ready: stage.subscribed(ready), "a subscription")
            many = {"count": 30 * PER_S, "bytes": 1024, "ratePerS": PER_S}
            load = threading.Thread(target=stage.post, args=(ready, "/simulator/events", many), daemon=True)
            load.start()
            time.sleep(1)
            control = Path(folder) / "journal.db.sock"
            times_ms = [timed_ms(lambda path=control: call(path, "status")) for _ in range(CALLS)]
            p50.append(stage.quantile(times_ms, 0.5))
            p99.append(stage.quantile(times_ms, 0.99))
            scrapes += [timed_ms(lambda port=port: scrape(port)) for _ in range(SCRAPES)]
    return [
        stage.row(f"`status` over the socket at {PER_S}/s, {CALLS:,} calls, p50", p50, "ms"),
        stage.row(f"`status` over the socket at {PER_S}/s, {CALLS:,} calls, p99", p99, "ms"),
        stage.row(f"/metrics at {PER_S}/s", scrapes, "ms"),
    ]


def commands(count: int, times: int = 9) -> list[dict[str, Any]]:
    """With *count* events in the journal: how long whole commands take, beside a daemon and without; its memory."""
    stage.note(f"commands, a journal of {count:,} events")
    rows = []
    with stage.simulator() as ready, TemporaryDirectory() as folder:
        make_journal(Path(folder) / "journal.db", count, behind=BEHIND)
        with stage.daemon(ready, Path(folder), 10 * BEHIND) as process:
            stage.wait_for(lambda: stage.subscribed(ready), "a subscription")
            time.sleep(1)
            rows += [whole(name, folder, count, times, "a daemon") for name in COMMANDS]
            peak_mib = stage.status_kib(process.pid, "VmHWM") / stage.KIB_PER_MIB
        rows += [whole(name, folder, count, times, "no daemon") for name in COMMANDS]
        rows.append(stage.row(f"peak memory, {count:,} events in the journal", [peak_mib], "MiB"))
    return rows


def whole(name: str, folder: str, count: int, times: int, beside: str) -> dict[str, Any]:
    """Measure one command."""
    words = [sys.executable, "-m", "rc_push", "-c", f"{folder}/rc-push.toml", name]

    expected = set(EXIT_CODES.values()) if name == "status" else {EXIT_OK}  # it says so how the daemon is

    def run() -> None:
        code = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        if code not in expected:
            sys.exit(f"rc-push {name} ended with {code}")

    run()
    return stage.row(f"`rc-push {name}`, {count:,} events, {beside}", [timed_ms(run) for _ in range(times)], "ms")


def scrape(port: int) -> None:
    """Get the metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        answer.read()


def timed_ms(what: Callable[[], object]) -> float:
    """Return how long *what* takes, in ms."""
    began = time.monotonic()
    what()
    return (time.monotonic() - began) * 1000
