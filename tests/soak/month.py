"""What becomes of a daemon in a month? Thirty days in minutes, with all that ends, is renewed and goes by itself.

    python tests/soak/month.py [--days 30] [--folder DIR]

Two things make a day short. Clocks run `SPEED` times as fast for simulator and daemon (tests/chaos/hastened.py), so
that no number of rc-push is changed; and RingCentral's limits, which it tells its clients, are shorter by the
simulator's knobs, in the proportions of `KNOBS`. Prints tables and a verdict; exit code 1 where something is missing
outside of a gap, where an ordinary day has one, or where what has to be renewed was not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tables
from accounts import Span
from course import LOOK_EVERY_S, Course, Stream, note
from ground import HASTENED, Ground, Settings
from witnesses import Receiver

sys.path.insert(0, str(HASTENED.parent))

from hastened import ClockFile, Time

SPEED = 40.0
# A day, in the run's seconds: what RingCentral and rc-push count in seconds and minutes is not scaled, and has to fit.
DAY_S = 480.0
# What RingCentral counts in days and hours. A token's hour is three hours of such a day: its leeway has to fit, too.
KNOBS = (
    f"absolute_timeout_s={DAY_S}",  # a connection's 24 hours
    f"refresh_token_s={7 * DAY_S}",  # a refresh token's week
    f"access_token_s={DAY_S / 8}",  # an access token's hour
    f"pubnub_life_s={DAY_S / 4}",  # a PubNub subscription's 15 minutes
    f"idle_timeout_s={DAY_S / 8}",  # without a message, half an hour
    "pubnub_paces=false",
)
# The shortest that the settings allow, 864 s: so two days stand for seven, of events and of a webhook's life.
SHORTEST_DAYS = 0.01
KEPT_S = SHORTEST_DAYS * 86_400
# Retention looks once a minute; the journal's witness as often as `course` says, which is in real seconds.
KEPT_LATER_S = 60.0 + 2 * LOOK_EVERY_S * SPEED
# Events by day, in real seconds; none in the last third of it, the night.
STREAMS = (Stream("posts", 20.0, 1024), Stream("messages", 4.0, 1024), Stream("calls", 4.0, 1024))
NIGHT_FROM = 2 / 3
# A machine is too busy to be judged by its times where a thread that wants to run, or a disk, takes longer than this:
# the shortest patience of rc-push is that of a webhook's answer, 2 s of the run's.
BUSY_S = 0.04
WATCH_EVERY_S = 0.05
# How long an event is on its way between two processes, in real seconds.
ON_ITS_WAY_S = 0.025
# What a day owes. PubNub's 120 s are renewed after 68 to 80; a token is refreshed when a call needs it, as these do.
OWED = {"connection_rotated": 1, "renewals": 6, "oauth_refresh": 6}
# Of that, this part at least must have been: outages take some of it away.
ENOUGH = 0.8


@dataclass(frozen=True, slots=True)
class Day:
    """What a day was: *counts* of what happened on it, *is_busy*: the machine was not fast enough to judge gaps by."""

    number: int
    event: str
    since_ms: int
    until_ms: int
    is_up: bool
    is_busy: bool
    counts: Mapping[str, int]
    journal_mib: float
    oldest_s: float


@dataclass
class Watch:
    """Notes whether this machine, or its disk, is too busy. Used as a context, in a thread."""

    path: Path
    is_busy: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with self.path.open("wb", buffering=0) as file:
            while not self._over.is_set():
                began = time.monotonic()
                os.pwrite(file.fileno(), b"x", 0)
                os.fdatasync(file.fileno())
                time.sleep(WATCH_EVERY_S)
                self.is_busy |= time.monotonic() - began > WATCH_EVERY_S + BUSY_S


class Month:
    """One month over *course*: what happens on which day, and what became of each."""

    def __init__(self, course: Course, watch: Watch, wall_ms: Callable[[], int]) -> None:
        self.course = course
        self.ground = course.ground
        self.days: list[Day] = []
        self._watch = watch
        self._wall_ms = wall_ms
        # day → what happens on it, in its morning
        self.events: dict[int, tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = {
            3: ("connection reset", lambda: self._fault({"fault": "drop"})),
            5: ("reload", self._reload),
            8: ("session revoked elsewhere", lambda: self._fault({"fault": "revoke-session"})),
            10: ("stopped and started", self._restart),
            12: (
                "PubNub rotates all",
                lambda: self._fault({"fault": "rotate", "what": ["channel", "subscriberKey", "encryptionKey"]}),
            ),
            14: ("switched off for eight days", self._stop),
            22: ("switched on", self._start),
            25: ("kill -9", self._kill),
            27: ("429 to all calls", lambda: self._fault({"fault": "rate-limit", "forS": 30})),
        }

    async def pass_days(self, count: int) -> None:
        """Let so many days pass."""
        began, before = time.monotonic(), await self._counts()
        for number in range(1, count + 1):
            name, happen = self.events.get(number, ("", None))
            note(f"day {number}{': ' if name else ''}{name}")
            self.course.trouble = name or "none"
            since_ms, self._watch.is_busy, self.course.is_quiet = self._wall_ms(), False, False
            dawn = began + (number - 1) * DAY_S / SPEED
            await _sleep_until(dawn + 0.1 * DAY_S / SPEED)
            if happen:
                await happen()
            await _sleep_until(dawn + NIGHT_FROM * DAY_S / SPEED)
            self.course.is_quiet = True
            await _sleep_until(dawn + DAY_S / SPEED)
            after = await self._counts()
            self.days.append(self._day(number, name, since_ms, after - before))
            before = after

    def _day(self, number: int, event: str, since_ms: int, counts: Mapping[str, int]) -> Day:
        now_ms, oldest_ms = self._wall_ms(), self.course.journal.oldest_ms
        usage = self.ground.usage()
        return Day(
            number,
            event,
            since_ms,
            now_ms,
            usage is not None,
            self._watch.is_busy,
            counts,
            usage.journal_mib if usage else 0.0,
            (now_ms - oldest_ms) / 1000 if oldest_ms and usage else 0.0,
        )

    async def _counts(self) -> Counter[str]:
        """Return what has happened so far, by the daemon's log and the simulator's calls."""
        state = await self.ground.state()
        counts = Counter({"sent": sum(map(len, self.course.emitted.values()))})
        for line in self.ground.said():
            for event in ("oauth_login", "oauth_refresh", "connection_rotated"):
                counts[event] += f'"event":"{event}"' in line
        for endpoint, calls in state["calls"].items():
            counts["renewals"] += sum(call["status"] == 200 for call in calls) if endpoint.endswith("/renew") else 0
        return counts

    # ------------------------------------------------------------------------------------------------ what happens

    async def _fault(self, fault: dict[str, Any]) -> None:
        await self.ground.post("faults", fault)

    async def _reload(self) -> None:
        self.ground.settings.concurrency -= 1
        self.ground.write_config()
        self.ground.signal(signal.SIGHUP)

    async def _stop(self) -> None:
        if code := await self.ground.stop():
            self.course.told.complaints.append(f"SIGTERM ended with {code}")

    async def _start(self) -> None:
        self.ground.start()

    async def _restart(self) -> None:
        await self._stop()
        await self._start()

    async def _kill(self) -> None:
        self.ground.kill()
        await self._start()


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(at - time.monotonic())


def complaints_of(days: Sequence[Day], gaps: Sequence[tuple[str, Span, str]]) -> list[str]:
    """Say what of a month was not as it has to be; gaps are (subscription, (since, until), reason)."""
    up = [day for day in days if day.is_up]
    calm = [day for day, before in zip(days, [None, *days], strict=False) if _is_ordinary(day, before)]
    complaints = []
    for day in calm:
        for subscription, (since, until), reason in gaps:
            if day.since_ms <= since and until < day.until_ms and not day.is_busy:
                complaints.append(f"day {day.number}, an ordinary one: a gap of {subscription}, {reason}")
    complaints += [
        f"day {day.number}: the oldest event is {day.oldest_s:.0f} s old, kept are {KEPT_S:.0f} s"
        for day in up
        if day.oldest_s > KEPT_S + KEPT_LATER_S
    ]
    for name, per_day in OWED.items():
        count = sum(day.counts[name] for day in up)
        if count < ENOUGH * per_day * len(up):
            complaints.append(f"{name}: {count} in {len(up)} days, {per_day} a day are due")
    return complaints


def _is_ordinary(day: Day, before: Day | None) -> bool:
    """Say whether nothing has happened on *day*, nor just before it: what happened in a night shows in the morning."""
    return day.is_up and not day.event and (before is None or (before.is_up and not before.event))


def shown(days: Sequence[Day], course: Course) -> str:
    """Tell what each day was."""
    rows = []
    for day in days:
        gaps = [span for _, span, _ in course.told.gaps if day.since_ms <= span[0] < day.until_ms]
        counts = day.counts
        rows.append(
            (
                day.number,
                day.event if day.is_up or day.event else "(off)",
                counts["sent"],
                counts["connection_rotated"],
                counts["oauth_refresh"],
                counts["oauth_login"],
                counts["renewals"],
                f"{len(gaps)}{' (busy machine)' if gaps and day.is_busy else ''}",
                f"{day.journal_mib:.1f}" if day.is_up else "",
                f"{day.oldest_s / DAY_S:.1f}" if day.is_up else "",
            )
        )
    head = ("day", "on it", "events", "rotations", "refreshes", "logins", "PubNub renewals", "gaps", "journal MiB")
    return tables.table((*head, "oldest event, days"), rows)


async def play(days: int, folder: Path) -> tuple[Course, list[Day]]:
    """Let *days* pass in *folder*; return what came of it."""
    passing = Time.beginning_now(SPEED)
    ClockFile(folder / "clock")
    environ = {"RC_PUSH_CHAOS_TIME": passing.to_text(), "RC_PUSH_CHAOS_CLOCK": str(folder / "clock")}
    settings = Settings(journal=f"retention_days = {SHORTEST_DAYS}\n", hook_days=SHORTEST_DAYS)
    async with (
        Receiver(passing.wall_ms) as receiver,
        Ground(folder, KNOBS, receiver.url, settings, environ, hastened=True) as ground,
    ):
        course = Course(
            ground,
            receiver,
            STREAMS,
            sample_every_s=1.0,
            wall_ms=passing.wall_ms,
            speed=SPEED,
            slack_ms=round(ON_ITS_WAY_S * SPEED * 1000),
        )
        with Watch(folder / "watch") as watch:
            month = Month(course, watch, passing.wall_ms)
            await course.begin()
            async with course.flowing():
                await month.pass_days(days)
            await course.rest()
        return course, month.days


def main() -> None:
    """Play, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="what to work in, and leave there; else one that is removed")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rc-push-month-") as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        course, days = asyncio.run(play(options.days, folder.resolve()))
    print(f"\n{shown(days, course)}\n\n{tables.accounts(course.told)}")
    print(f"\n{options.days} days in {(time.monotonic() - began) / 60:.1f} minutes")
    complaints = course.told.complaints + complaints_of(days, course.told.gaps)
    print("\nverdict: " + ("as it has to be" if not complaints else "NOT WELL\n" + "\n".join(complaints)))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
