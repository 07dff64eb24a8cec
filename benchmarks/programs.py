"""How many programs does the daemon run? A backlog for the `command` handler, with a program that does nothing.

Used by `bench.py`. The programs share the daemon's processor, so `concurrency` only fills the gaps.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import stage
from handlers import make_journal
from sinks import drained_per_s

from rc_push.journal import Reader

KINDS = {
    "one at a time": "concurrency = 1\n",
    "4 at a time": "concurrency = 4\n",
    "4 at a time, with limits": "concurrency = 4\ncpu_s = 10\nmemory_bytes = 1_073_741_824\n",
}


def programs(count: int, rounds: int) -> list[dict[str, Any]]:
    """Events per second that go through `/bin/true`, by how it is run."""
    rates: dict[str, list[float]] = {name: [] for name in KINDS}
    for number in range(rounds):
        stage.note(f"programs, round {number + 1} of {rounds}")
        for name, settings in KINDS.items():
            rates[name].append(events_per_s(count, settings))
    return [stage.row(f"command handler, /bin/true, {name}", values, "events/s") for name, values in rates.items()]


def events_per_s(count: int, settings: str) -> float:
    """Return the rate from the first events that are done, which leaves the start out, to the last."""
    handler = f'[handlers.programs]\nuse = "command"\nprogram = ["/bin/true"]\n{settings}'
    with stage.simulator() as ready, TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        make_journal(path, count, handler="programs", behind=count)
        with stage.daemon(ready, Path(folder), 1, more=handler), closing(Reader(path)) as reader:
            return drained_per_s(reader, "programs", count)
