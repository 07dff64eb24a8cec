"""How fast is the daemon? Real processes over loopback, pinned apart, several rounds, medians.

    python benchmarks/bench.py [--quick] [--rounds 5] [--events 60000] [--only NAME …] [--json FILE]

Every figure is in benchmarks/results/ as JSON afterwards. `--quick` takes less than a minute and fails where a ratio is
below its floor: only ratios within one run say something on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import handlers
import programs
import receiving
import sinks
import stage
import watching
import webhooks
from stage import type_of_row

RESULTS = Path(__file__).parent / "results"
LONG_WITHIN_S = 1800.0
# What a ratio of the quick run may not be below. Generous: about half of what was measured where nothing else ran.
FLOORS = {
    "rc-push / @rc-ex/ws, 1024 B": 0.4,
    "rc-push / @rc-ex/ws, 4096 B": 0.5,
    "rc-push / official Python SDK, 1024 B": 0.6,
    "rc-push / official Python SDK, 4096 B": 0.6,
    "rc-push / slack_sdk, 1024 B": 1.0,
    "rc-push / slack_sdk, 4096 B": 0.8,
}


def parts(rounds: int, events: int) -> Mapping[str, Callable[[], list[type_of_row]]]:
    """Return what can be measured, by name, in the order of the table."""
    few = max(1, rounds - 2)
    return {
        "throughput": lambda: [
            *receiving.throughput(1024, rounds, events),
            *receiving.throughput(4096, rounds, events // 2),
        ],
        "latency": lambda: [
            *receiving.latency(1000, few, 8),
            *receiving.latency(5000, few, 4),
            *receiving.trickle(10, few, 10),
        ],
        "memory": lambda: [*receiving.idle("websocket"), *receiving.idle("pubnub")],
        "starting": lambda: receiving.starting(rounds, 1_000_000),
        "pubnub": lambda: [*receiving.over_pubnub(few, events // 3), *receiving.decrypting(rounds)],
        "webhooks": lambda: webhooks.posts(few, events // 4),
        "subscriptions": lambda: receiving.many_subscriptions(50, 1, 10_000),
        "handlers": lambda: [
            *handlers.backlog(100_000, few),
            *handlers.many_handlers((10, 20), events // 3, few),
            *handlers.beside_one_that_hangs(events // 2, few),
        ],
        "forward": lambda: sinks.forwarding(20_000, few),
        "file": lambda: [*sinks.filing(200_000, few), *sinks.file_handler(few)],
        "command": lambda: programs.programs(1000, few),
        "watching": lambda: [*watching.watching(few), *watching.commands(1_000_000)],
    }


def growth(rounds: int, events: int) -> Mapping[str, Callable[[], list[type_of_row]]]:
    """Return what takes longer than all the rest: `--only growth flat`."""
    return {
        "growth": lambda: receiving.growing((1000, 100_000, 1_000_000, 10_000_000), max(1, rounds - 2), events),
        "flat": lambda: [
            *receiving.flat(10_000_000, LONG_WITHIN_S),
            *handlers.backlog_memory(1_000_000, LONG_WITHIN_S),
            *sinks.forward_descriptors(100_000),
        ],
    }


def quick() -> list[type_of_row]:
    """Measure what the floors are for."""
    return [
        *receiving.throughput(1024, 1, 40_000),
        *receiving.throughput(4096, 1, 20_000),
    ]


def main() -> None:
    """Run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the ratios, once; fails below their floors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the parts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stage.prepare()
    rows = quick() if options.quick else measured(options.rounds, options.events, options.only)
    show(rows)
    path = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    if options.quick and (below := [found for found in rows if found["median"] < FLOORS.get(found["what"], 0)]):
        sys.exit("below the floor: " + ", ".join(f"{found['what']} ({found['median']:.2f})" for found in below))


def measured(rounds: int, events: int, only: Sequence[str] | None) -> list[type_of_row]:
    """Return the rows of all parts, or of those named."""
    known = dict(parts(rounds, events))
    chosen = known if only is None else known | growth(rounds, events)
    unknown = set(only or ()) - set(chosen)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
    return [found for name, part in chosen.items() if only is None or name in only for found in part()]


def show(rows: Sequence[type_of_row]) -> None:
    """Print the table."""
    print(f"\n{machine()}")
    print(f"\n{'what':<74} {'median':>10} {'min':>10} {'max':>10}  unit")
    for found in rows:
        figures = " ".join(f"{found[name]:>10,.{digits(found[name])}f}" for name in ("median", "min", "max"))
        print(f"{found['what']:<74} {figures}  {found['unit']}")


def digits(value: float) -> int:
    """Return how many decimals of *value* say something."""
    return 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0


def machine() -> str:
    """Say on what it was measured."""
    return f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
