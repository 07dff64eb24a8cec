"""Does the daemon leak, and does it lose anything, while everything goes wrong for an hour? See docs/reliability.md.

    python tests/soak/soak.py [--minutes 60] [--folder DIR]

500 events a second over three transports, the troubles of `troubles.py` in turn. Prints tables and a verdict; exit code
1 where something grows, or something is missing outside of a gap.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tables
from bounds import BOUNDS
from course import Course, Stream, Told, note
from ground import Ground
from troubles import ROTATION, Trouble
from verdict import Finding, Point, judge
from witnesses import Receiver

# Together 500/s, 1.6 KB in the mean. The largest come in bursts of 200 KB: batches from 64 KiB on go into segments.
STREAMS = (
    Stream("posts", 250.0, 512),
    Stream("posts", 100.0, 2048),
    Stream("posts", 50.0, 8192, every_s=0.5, at_once=True),
    Stream("messages", 50.0, 1024),
    Stream("calls", 50.0, 1024),
)
# RingCentral's limits where they would be too rare: a connection lives for five minutes, PubNub's keys for one.
KNOBS = ("auth_limit=100", "absolute_timeout_s=300", "pubnub_life_s=60", "access_token_s=600", "pubnub_paces=false")
SAMPLE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and what. The first round of troubles is not judged: a process grows until it has met each once."""

    seconds: float
    troubles: Sequence[Trouble] = ROTATION
    sample_every_s: float = SAMPLE_EVERY_S


async def play(plan: Plan, folder: Path) -> Told:
    """Play *plan* in *folder*; return what came of it."""
    async with (
        Receiver(wall_ms) as receiver,
        Ground(folder, KNOBS, receiver.url) as ground,
    ):
        course = Course(ground, receiver, STREAMS, sample_every_s=plan.sample_every_s, wall_ms=wall_ms)
        await course.begin()
        async with course.flowing():
            number = 0
            while time.monotonic() - course.began < plan.seconds:
                trouble = plan.troubles[number % len(plan.troubles)]
                minutes = (time.monotonic() - course.began) / 60
                note(f"{minutes:5.1f} min: {trouble.name}")
                await course.meet(trouble)
                number += 1
        await course.rest()
        return course.told


def wall_ms() -> int:
    """Return the time, in ms since 1970."""
    return time.time_ns() // 1_000_000


def warm_up_s(plan: Plan, told: Told) -> float:
    """Return how long the first round took; a run that was shorter has a quarter of its time to warm up."""
    rounds = len(plan.troubles)
    if len(told.times) <= rounds:
        return plan.seconds / 4
    return (told.times[rounds - 1][2] - told.times[0][1]) / 1000


def findings_of(told: Told, from_s: float) -> list[Finding]:
    """Hold what was sampled from *from_s* on against the bounds."""
    values = {
        "RSS": [sample.usage.rss_mib for sample in told.samples],
        "descriptors": [float(sample.usage.descriptors) for sample in told.samples],
        "threads": [float(sample.usage.threads) for sample in told.samples],
        "WAL": [sample.usage.wal_mib for sample in told.samples],
        "journal": [sample.usage.journal_mib for sample in told.samples],
    }

    def points(name: str) -> list[Point]:
        sampled = zip(told.samples, values[name], strict=True)
        return [Point(sample.at_s, value, sample.trouble) for sample, value in sampled if sample.at_s >= from_s]

    return [judge(bound, points(bound.name)) for bound in BOUNDS]


def show(told: Told, findings: Sequence[Finding], from_s: float) -> None:
    """Print everything."""
    print(f"\n{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for title, text in (
        ("By trouble", tables.by_trouble(told)),
        ("By time", tables.by_time(told.samples)),
        (f"Growth, from minute {from_s / 60:.0f} on", tables.slopes(findings)),
        ("Accounts", tables.accounts(told)),
    ):
        print(f"\n### {title}\n\n{text}")
    print("\nseen by handlers: " + ", ".join(f"{name} {count}" for name, count in told.seen.items()))


def main() -> None:
    """Play, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help="what to work in, and leave there; else one that is removed")
    options = parser.parse_args()
    plan = Plan(options.minutes * 60)
    with tempfile.TemporaryDirectory(prefix="rc-push-soak-") as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        told = asyncio.run(play(plan, folder.resolve()))
    from_s = warm_up_s(plan, told)
    findings = findings_of(told, from_s)
    show(told, findings, from_s)
    complaints = told.complaints + [f"{found.bound.name}: {found.complaint}" for found in findings if found.complaint]
    print("\nverdict: " + ("flat, and it adds up" if not complaints else "NOT WELL\n" + "\n".join(complaints)))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
