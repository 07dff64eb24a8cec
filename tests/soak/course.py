"""How does a soak go? Events flow, troubles come in turn, samples are taken; then all has to come to rest and add up.

`Course` is what every plan shares; `soak.py` and `month.py` have the plans. Knows what each step does; judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from accounts import SLACK_MS, Account, Span, settle, unseen
from ground import HANDLERS, SUBSCRIPTIONS, Ground, Usage
from troubles import Step, Trouble
from witnesses import FileWitness, JournalWitness, Receiver

from rc_push.journal.reader import Reader

LOOK_EVERY_S = 1.0
# A machine that was too slow for longer owes nothing: events are not sent in a heap afterwards.
BEHIND_MAX_S = 2.0
NEVER_SAID = ("internal error", "never retrieved", "was never awaited", "Traceback (most recent call last)")
LATE_S = 180.0


@dataclass(frozen=True, slots=True)
class Stream:
    """Events for one subscription, *rate_per_s* of *bytes_* each: every *every_s* those that are due.

    They come one after the other, or *at_once*.
    """

    subscription: str
    rate_per_s: float
    bytes_: int
    every_s: float = 1.0
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One look, *at_s* seconds after the beginning; latencies are those since the last one."""

    at_s: float
    trouble: str
    usage: Usage
    backlog: int
    sent: int
    latencies_ms: Sequence[int]


@dataclass
class Told:
    """What came of a course."""

    samples: list[Sample] = field(default_factory=list)
    times: list[tuple[str, int, int]] = field(default_factory=list)  # trouble, since, until in ms since 1970
    accounts: list[Account] = field(default_factory=list)
    gaps: list[tuple[str, Span, str]] = field(default_factory=list)  # subscription, (since, until), reason
    seen: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


class Course:
    """One course over *ground*: `begin`, what the plan has while events are `flowing`, `rest`; then `told` is whole."""

    def __init__(
        self,
        ground: Ground,
        receiver: Receiver,
        streams: Sequence[Stream],
        *,
        sample_every_s: float,
        wall_ms: Callable[[], int],
        speed: float = 1.0,
        slack_ms: int = SLACK_MS,
    ) -> None:
        self.ground = ground
        self.receiver = receiver
        self.told = Told()
        self.trouble = "none"
        self.began = time.monotonic()
        self.emitted: dict[str, array[int]] = {name: array("q") for name in SUBSCRIPTIONS}
        self.journal = JournalWitness(ground.journal_path)
        self.files = {
            "file": FileWitness(ground.folder / "events.jsonl"),
            "program": FileWitness(ground.folder / "program.txt"),
        }
        self.is_quiet = False
        self._streams = streams
        self._sample_every_s = sample_every_s
        self._wall_ms = wall_ms
        self._speed = speed
        self._slack_ms = slack_ms
        self._is_over = False
        self._beside: set[asyncio.Task[Any]] = set()

    async def begin(self) -> None:
        """Start the daemon, and wait until all is served."""
        self.ground.start()
        await self.wait_served()
        self.began = time.monotonic()

    @contextlib.asynccontextmanager
    async def flowing(self) -> Any:
        """Let events flow, and look, while the context lasts; what fails there fails here."""
        async with asyncio.TaskGroup() as group:
            emitters = [group.create_task(self._emit(stream)) for stream in self._streams]
            watchers = [group.create_task(self._sample()), group.create_task(self._look())]
            try:
                yield
                await asyncio.gather(*self._beside)
                await self.wait_served()
            finally:
                self._is_over = True
            await asyncio.gather(*emitters)
            for watcher in watchers:
                watcher.cancel()

    async def meet(self, trouble: Trouble) -> None:
        """Let *trouble* happen, give it its time, and wait until all is served again: troubles do not pile up."""
        self.trouble = trouble.name
        since_ms, began = self._wall_ms(), time.monotonic()
        for step in trouble.steps:
            await asyncio.sleep(began + step.after_s - time.monotonic())
            await self._do(step)
        await asyncio.sleep(began + trouble.lasts_s - time.monotonic())
        await self.wait_served()
        self.told.times.append((trouble.name, since_ms, self._wall_ms()))

    async def rest(self) -> None:
        """Send one event more over each subscription; wait until handlers have all; end the daemon, and settle."""
        for name, (_, event) in SUBSCRIPTIONS.items():
            told = await self.ground.post("events", {"count": 1, "bytes": 512, "event": event, "wait": True})
            self._note(name, told["uuids"])
        fresh = {name: uuids[-1] for name, uuids in self.emitted.items()}
        await self._wait(lambda: self._have_come(fresh), "a fresh event over each subscription")
        await self._wait(self._is_drained, "the handlers' backlog")
        audit = await self.ground.command("audit")
        if code := await self.ground.stop():
            self.told.complaints.append(f"SIGTERM ended with {code}")
        self._look_once()
        for witness in self.files.values():
            witness.close()
        self._settle(audit)

    async def wait_served(self) -> None:
        """Wait until all subscriptions are served and no gap is open."""

        async def is_served() -> bool:
            status = await self.ground.status()
            return bool(
                status and all(one["isServed"] for one in status["subscriptions"]) and status["gaps"].get("open") == 0
            )

        await self._wait(is_served, "all subscriptions to be served")

    # --------------------------------------------------------------------------------------------------------- events

    async def _emit(self, stream: Stream) -> None:
        owed, before = 0.0, time.monotonic()
        while not self._is_over:
            await asyncio.sleep(max(0.0, before + stream.every_s - time.monotonic()))
            now = time.monotonic()
            owed = min(owed + stream.rate_per_s * (now - before), stream.rate_per_s * BEHIND_MAX_S)
            before = now
            if self.is_quiet:
                owed = 0.0
            if owed >= 1:
                await self._send(stream, int(owed))
                owed -= int(owed)

    async def _send(self, stream: Stream, count: int) -> None:
        body = {"count": count, "bytes": stream.bytes_, "event": SUBSCRIPTIONS[stream.subscription][1], "wait": True}
        if not stream.at_once:  # a little faster than they are due: the call itself takes some time
            body["ratePerS"] = 1.1 * count / stream.every_s / self._speed
        told = await self.ground.post("events", body)
        self._note(stream.subscription, told["uuids"])

    def _note(self, subscription: str, uuids: Sequence[str]) -> None:
        self.emitted[subscription].extend(map(int, uuids))

    # ---------------------------------------------------------------------------------------------------------- looks

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._sample_every_s)
            status = await self.ground.status()
            await self.ground.scrape()
            usage = self.ground.usage()
            if usage is None:
                continue
            backlog = max((one.get("pending", 0) for one in status["handlers"]), default=0) if status else 0
            sample = Sample(
                time.monotonic() - self.began,
                self.trouble,
                usage,
                backlog,
                sum(map(len, self.emitted.values())),
                self.receiver.take_latencies(),
            )
            self.told.samples.append(sample)
            with (self.ground.folder / "samples.jsonl").open("a") as file:
                print(json.dumps(asdict(replace(sample, latencies_ms=()))), file=file)

    async def _look(self) -> None:
        while True:
            await asyncio.to_thread(self._look_once)
            await asyncio.sleep(LOOK_EVERY_S)

    def _look_once(self) -> None:
        self.journal.look()
        for witness in self.files.values():
            witness.look()

    # ---------------------------------------------------------------------------------------------------------- steps

    async def _do(self, step: Step) -> None:
        match step.what:
            case "receiver":
                self.receiver.mood = step.body
            case "reload":
                self.ground.settings.concurrency = 28 - self.ground.settings.concurrency
                self.ground.write_config()
                self.ground.signal(signal.SIGHUP)
            case "burst":
                burst = next(stream for stream in self._streams if stream.subscription == "posts")
                await self._send(Stream(burst.subscription, 0, burst.bytes_, at_once=True), step.body)
            case "freeze":
                self.ground.signal(signal.SIGSTOP)
                await asyncio.sleep(step.body)
                self.ground.signal(signal.SIGCONT)
            case "look":
                task = asyncio.create_task(self._people_look())
                self._beside.add(task)
                task.add_done_callback(self._beside.discard)
            case _:
                await self.ground.post(step.what, step.body)

    async def _people_look(self) -> None:
        """Ask what people ask."""
        for words in (["status"], ["gaps"], ["handlers"], ["events", "--limit", "20"], ["audit"], ["unreadable"]):
            await self.ground.command(*words)

    # ----------------------------------------------------------------------------------------------------------- ends

    async def _wait(self, condition: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + LATE_S
        while not await condition():
            if not self.ground.is_up:
                raise RuntimeError("the daemon has ended:\n" + "\n".join(self.ground.said()[-20:]))
            if time.monotonic() > until:
                raise RuntimeError(f"waited {LATE_S:g} s for {what}; it said\n" + "\n".join(self.ground.said()[-20:]))
            await asyncio.sleep(0.2)

    async def _have_come(self, fresh: dict[str, int]) -> bool:
        await asyncio.to_thread(self._look_once)
        return all(fresh[name] in self.journal.stored.get(name, ())[-100:] for name in fresh)

    async def _is_drained(self) -> bool:
        status = await self.ground.status()
        return bool(status) and all(not one["pending"] for one in status["handlers"])

    def _settle(self, audit: Sequence[dict[str, Any]]) -> None:
        told, stored = self.told, {name: self.journal.stored.get(name, array("q")) for name in SUBSCRIPTIONS}
        with closing(Reader(self.ground.journal_path)) as reader:
            gaps = list(reader.gaps())
        told.complaints += [f"a gap of {gap.subscription} is still open" for gap in gaps if gap.until_ms is None]
        told.gaps = [(gap.subscription, (gap.since_ms, gap.until_ms or gap.since_ms), gap.reason) for gap in gaps]
        for name, uuids in stored.items():
            spans = [span for subscription, span, _ in told.gaps if subscription == name]
            told.accounts.append(settle(name, self.emitted[name], uuids, spans, self._slack_ms))
            told.complaints += told.accounts[-1].complaints
        everything = array("q", (uuid for uuids in stored.values() for uuid in uuids))
        seen = {"forward": self.receiver.seen} | {name: witness.seen for name, witness in self.files.items()}
        for handler in HANDLERS:
            owed = stored["calls"] if handler == "program" else everything
            told.seen[handler] = len(set(seen[handler]))
            told.complaints += unseen(handler, owed, seen[handler])
        told.complaints += list(audit_complaints(audit, {name: len(uuids) for name, uuids in stored.items()}))
        told.complaints += [line for line in self.ground.said() if any(text in line for text in NEVER_SAID)]


def audit_complaints(audit: Sequence[dict[str, Any]], stored: dict[str, int]) -> Iterator[str]:
    """Say where `rc-push audit` does not add up, or has counted otherwise than the witness of the journal."""
    for line in audit:
        if line.get("addsUp") is False:
            yield f"audit: {line}"
        name = line.get("subscription")
        if name in stored and line["stored"] != stored[name]:
            yield f"audit: {name} has stored {line['stored']}, seen in the journal were {stored[name]}"
    if not any("addsUp" in line for line in audit):
        yield "audit: it said nothing"


def note(text: str) -> None:
    """Say what is being done."""
    print(f"  … {text}", file=sys.stderr, flush=True)
