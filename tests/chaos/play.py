"""How is a scenario played? `play` does it, and returns what came of it as an Outcome.

Knows what each step does to the processes; judges nothing.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import outcome as told
from outcome import Outcome, Trouble
from scenario import EVENT, NAMES, Scenario, Step
from stage import Stage

from rc_push.journal.reader import Reader

SPEED = 10.0
LIVE_WITHIN_S = 200.0
# How soon after the faults a fresh event has to be there, in the run's seconds. The bound is the oracle's; here it is
# waited a little longer, to see by how much it was missed.
FRESH_WITHIN_S = 320.0
PROBE_EVERY_S = 1.0
# Some thousand events of bursts, one after the other, half a second each, and of each ten another seven calls.
DRAINED_WITHIN_S = 1200.0
TICK_S = 0.4
# This machine is busy where within WATCH_S a thread that wants to run has to wait for a processor for longer than this
# in all, or a page for its disk; real seconds both.
BUSY_S, WATCH_S = 0.1, 0.15
NEVER_SAID = ("internal error", "never retrieved", "Traceback", "was never awaited")
TEXTS = ("lorem ipsum ", 'quoted "\\" ', "Grüße, 世界 🎉 ", "line\nbreak\ttab \u0001 ", "</script>\u2028 ")


def play(scenario: Scenario, folder: Path, speed: float = SPEED) -> Outcome:
    """Play *scenario* in the empty *folder*."""
    with Stage(scenario, folder, speed) as stage:
        return _Play(scenario, stage).run()


class _Play:
    def __init__(self, scenario: Scenario, stage: Stage) -> None:
        self.scenario = scenario
        self.stage = stage
        self.passing = stage.passing
        self.outcome = Outcome(
            owed={NAMES[transport]: transport for transport in scenario.transports},
            knobs=dict(scenario.knobs),
            order={"steady": "key", "shaky": scenario.handler.order},
        )
        self.began = 0.0
        self._numbers = itertools.count()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._frozen = self._full = False

    def run(self) -> Outcome:
        with _beside(self._watch):
            self._begin()
            with _beside(self._send):
                for step in self.scenario.steps:
                    self._at(step.at_s, lambda step=step: self._do(step))
                self._at(self.scenario.length_s, lambda: None)
                self._play_all()
                self._heal()
            self._prove()
            self._drain()
            self.outcome.stopped_ms = self.passing.wall_ms()
            self.outcome.exit_code = self.stage.stop()
        self._collect()
        return self.outcome

    # --------------------------------------------------------------------------------------------------------- course

    def _begin(self) -> None:
        self.stage.start()
        until = self.passing.now() + LIVE_WITHIN_S
        while not self.stage.live() >= self.outcome.owed.keys():
            if self.passing.now() > until or not self.stage.is_up:
                raise RuntimeError(f"not live at the beginning; it said\n{self.stage.said()}")
            time.sleep(0.02)
        self.began = self.passing.now()
        self.outcome.began_ms = self.passing.wall_ms()
        self.outcome.clock.append((self.outcome.began_ms, 0))

    def _play_all(self) -> None:
        while self._due:
            at, _, action = heapq.heappop(self._due)
            self.passing.sleep(self.began + at - self.passing.now())
            action()

    def _heal(self) -> None:
        """End what has not ended. What waits in the simulator for its moment has had its time."""
        self._thaw()
        self._free()
        if not self.stage.is_up:
            self.stage.start()
        self.outcome.healed_ms = self.passing.wall_ms()

    def _prove(self) -> None:
        """Send one event after the other, until all is well; then one more, which has to come everywhere."""
        healed, sent = self.passing.now(), {}
        steady = _Tail(self.stage.folder / "steady.jsonl")
        waiting = set(self.outcome.owed)
        self.outcome.fresh_s = dict.fromkeys(waiting)
        next_at, last = healed, ""
        last_to: set[str] = set()
        while (waiting or last_to or not last) and self.passing.now() < healed + FRESH_WITHIN_S:
            if not last and self.passing.now() >= next_at:
                is_last = not waiting and self._is_well()
                [event] = events = self._events(1, random.Random(), chat="probe")
                sent[event["body"]["id"]] = self.passing.now()
                self.stage.post("events", events)
                next_at = self.passing.now() + PROBE_EVERY_S
                if is_last:
                    last, last_to = event["body"]["id"], set(self.outcome.owed)
            time.sleep(0.01)
            for line in steady.more():
                name, id_ = line["rcPush"]["subscription"], line["body"].get("id")
                if name in waiting and id_ in sent:
                    self.outcome.fresh_s[name] = round(self.passing.now() - healed, 2)
                    waiting.discard(name)
                if id_ == last:
                    last_to.discard(name)
        if not waiting and not last:
            self.outcome.told.append(f"only {sorted(self.stage.live())} is live again")
        self.passing.sleep(3.0)

    def _is_well(self) -> bool:
        """Say whether the daemon itself thinks so: what it read on may have come before it knew all that is missing."""
        if not self.stage.live() >= self.outcome.owed.keys():
            return False
        with closing(Reader(self.stage.journal_path)) as reader:
            return all(gap.until_ms is not None for gap in reader.gaps())

    def _drain(self) -> None:
        until = self.passing.now() + DRAINED_WITHIN_S
        while self.stage.pending() and self.passing.now() < until:
            time.sleep(0.05)

    # -------------------------------------------------------------------------------------------------------- traffic

    def _send(self, over: threading.Event) -> None:
        """Send events until *over*, in the rhythm of the scenario."""
        traffic, rng = self.scenario.traffic, random.Random(self.scenario.seed)
        owed, before = 0.0, self.passing.now()
        while not over.is_set():
            self.passing.sleep(rng.uniform(0, 2 * TICK_S))
            now = self.passing.now()
            if not any(since <= now - self.began <= until for since, until in traffic.pauses):
                owed += (now - before) * traffic.rate_per_s
            before = now
            count, owed = int(owed), owed % 1
            if count:
                self.stage.post("events", self._events(count, rng))

    def _events(
        self, count: int, rng: random.Random, chat: str = "", *, is_small: bool = False
    ) -> list[dict[str, Any]]:
        traffic = self.scenario.traffic
        sizes = (min(traffic.sizes),) if is_small else traffic.sizes
        return [self._event(chat or f"chat-{rng.randrange(traffic.chats)}", sizes, rng) for _ in range(count)]

    def _event(self, chat: str, sizes: tuple[int, ...], rng: random.Random) -> dict[str, Any]:
        number = next(self._numbers)
        size = rng.choice(sizes)
        text = (rng.choice(TEXTS) * (size // 8 + 1))[:size]
        body = {"id": str(10**9 + number), "groupId": chat, "type": "TextMessage", "text": text, "number": number}
        return {"event": EVENT, "body": body | {"eventType": "PostAdded"}}

    def _watch(self, over: threading.Event) -> None:
        """Note when this machine, or its disk, was too busy to be judged by its times."""
        with (self.stage.folder / "watch").open("wb", buffering=0) as file:
            while not over.is_set():
                self._watch_once(file.fileno(), self.stage.waited_s())

    def _watch_once(self, file: int, waited_s: dict[int, float]) -> None:
        slept_at, slept_ms = time.monotonic(), self.passing.wall_ms()
        os.pwrite(file, b"x", 0)
        os.fdatasync(file)
        time.sleep(WATCH_S)
        late_s = time.monotonic() - slept_at - WATCH_S
        for pid, now_s in self.stage.waited_s().items():
            late_s = max(late_s, now_s - waited_s.get(pid, 0.0))
        if late_s > BUSY_S:
            self.outcome.troubles.append(Trouble("machine", slept_ms, self.passing.wall_ms()))

    # ---------------------------------------------------------------------------------------------------------- steps

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), action))

    def _do(self, step: Step) -> None:
        since_ms = self.passing.wall_ms()
        method = getattr(self, "_do_" + step.do.split(" ")[0].replace("-", "_"), None)
        if method:
            is_done = method(step)
        else:
            body = {name: value for name, value in step.details.items() if value is not None}
            is_done = self._fault(step, {"fault": step.do, **body})
        if is_done is False:
            self.outcome.left_out.append(step.do)
            return
        self.outcome.troubles.append(Trouble(step.do, since_ms, since_ms + round(step.for_s * 1000)))

    def _fault(self, step: Step, body: dict[str, Any]) -> None:
        """Let the simulator do it. It has an end, so that nothing of it is left when all has to be well."""
        if step.for_s:
            body["forS"] = step.for_s
            self._at(step.at_s + step.for_s + 0.5, lambda: None)
        self.stage.post("faults", body)

    def _do_kill(self, step: Step) -> bool:
        if not self.stage.is_up:
            return False
        self._end(self.stage.kill)
        self._audit(step.do)
        self._start_later(step.for_s)
        if step.do == "kill again":
            moment_s = random.Random(step.at_s).uniform(0.0, 20.0)
            self._at(self._now_s() + step.for_s + moment_s, lambda: self._do(Step(self._now_s(), "kill", 0.0)))
        return True

    def _do_stop(self, step: Step) -> bool:
        if not self.stage.is_up:
            return False
        codes: list[int | None] = []
        has_begun = '"event":"start"' in self.stage.said_last()
        self._end(lambda: codes.append(self.stage.stop()))
        if codes[0] != 0 and (has_begun or codes[0] != -signal.SIGTERM):  # before, nobody listens to it
            self.outcome.told.append(f"SIGTERM at {step.at_s:.1f} s ended with {codes[0]}, not with 0")
        self._audit(step.do)
        self._start_later(step.for_s)
        return True

    def _end(self, how: Callable[[], Any]) -> None:
        how()
        self._frozen = False

    def _start_later(self, after_s: float) -> None:
        def start() -> None:
            if not self.stage.is_up:
                self.stage.start()

        self._at(self._now_s() + after_s, start)

    def _do_freeze(self, step: Step) -> bool:
        if not self.stage.is_up or self._frozen:
            return False
        self.stage.daemon.send_signal(signal.SIGSTOP)
        self._frozen = True
        self._at(self._now_s() + step.for_s, self._thaw)
        return True

    def _thaw(self) -> None:
        if self._frozen and self.stage.is_up:
            self.stage.daemon.send_signal(signal.SIGCONT)
        self._frozen = False

    def _do_disk_full(self, step: Step) -> bool:
        if not self.stage.has_small_disk or self._full:
            return False
        self.stage.fill_disk()
        self._full = True
        self._at(self._now_s() + step.for_s, self._free)
        return True

    def _free(self) -> None:
        if self._full:
            self.stage.free_disk()
        self._full = False

    def _do_clock(self, step: Step) -> None:
        """Let the daemon's wall clock jump, and stay wrong."""
        self.stage.clock.write(wrong_s := self.stage.clock.read() + step.details["byS"])
        self.outcome.clock.append((self.passing.wall_ms(), round(wrong_s * 1000)))

    def _do_burst(self, step: Step) -> None:
        """Send many events at once; small ones, so that a disk is full only when it is to be."""
        self.stage.post("events", self._events(step.details["count"], random.Random(step.at_s), is_small=True))

    def _now_s(self) -> float:
        return self.passing.now() - self.began

    # ------------------------------------------------------------------------------------------------- what is left

    def _audit(self, when: str) -> None:
        self.outcome.audits.append(told.Audit(when, *self.stage.run("audit")))

    def _collect(self) -> None:
        outcome, stage = self.outcome, self.stage
        state = stage.state()
        outcome.emitted, outcome.withheld = _emitted(state)
        posts = [post for webhook in state["webhooks"].values() for post in webhook["posts"]]
        outcome.posts = [(_ms(post["at"]), post["uuid"]) for post in posts]
        with closing(Reader(stage.journal_path)) as reader:
            outcome.stored = _stored(reader)
        outcome.gaps = [
            told.Gap(gap["subscription"], _ms(gap["since"]), _ms(gap["until"]), gap["reason"], gap["certainty"])
            for gap in stage.listed("gaps")
        ]
        self._audit("the end")
        for handler in ("steady", "shaky"):
            outcome.lines[handler] = [_line(line) for line in _Tail(stage.folder / f"{handler}.jsonl").more()]
            outcome.parked[handler] = set()
        for row in stage.listed("parked", "--limit", "1000000"):
            outcome.parked[row["handler"]].add(row["position"])
        outcome.told += [line for line in stage.said().splitlines() if _is_never_said(line)]
        outcome.figures = {
            "emitted": len(outcome.emitted),
            "stored": len(outcome.stored),
            "in segments": stage.in_segments(),
            "gaps": len(outcome.gaps),
            "starts": stage.starts,
            "connections": len(state["connections"]),
        }


@contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have *work* done beside, until the event that it is given is set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _emitted(state: dict[str, Any]) -> tuple[list[told.Emitted], set[str]]:
    """Return the events as the simulator tells them, and the ids of those that it never sent."""
    by_id: dict[str, told.Emitted] = {}
    of_uuid = {}
    for subscription_id, entries in state["events"].items():
        for entry in entries:
            payload = json.loads(entry["payload"])
            id_ = str((payload["body"] if subscription_id else payload)["id"])
            event = by_id.setdefault(id_, told.Emitted(id_, _ms(entry["at"])))
            of_uuid[entry["uuid"]] = id_
            if subscription_id:
                event.payloads[subscription_id, entry["uuid"]] = entry["payload"]
    return list(by_id.values()), {of_uuid[uuid] for uuid in state["withheld"]}


def _stored(reader: Reader) -> list[told.Stored]:
    stored: list[told.Stored] = []
    position = 0
    while envelopes := reader.after(position, 1000):
        for each in envelopes:
            body = each.body
            stored.append(
                told.Stored(
                    each.position,
                    each.subscription,
                    each.transport,
                    each.origin,
                    each.type,
                    each.received_at_ms,
                    each.uuid,
                    str(body.get("id", "")),
                    str(body.get("groupId", "")),
                    bytes(each.payload).decode(),
                )
            )
        position = envelopes[-1].position
    return stored


def _line(line: dict[str, Any]) -> told.Line:
    ours = line.pop("rcPush", None)
    if ours is None:
        return told.Line(line["position"], line["id"], line["chat"])
    return told.Line(ours["position"], line["body"]["id"], line["body"]["groupId"], line)


def _is_never_said(line: str) -> bool:
    """Say whether a daemon that is well never says *line*. What the shaky handler raises is told with its traceback."""
    return any(text in line for text in NEVER_SAID) and '"event":"handler_failed"' not in line


class _Tail:
    """The whole lines of a file; the last one may be under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def more(self) -> list[dict[str, Any]]:
        """Return the lines that have come since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n")] if newline else []


def _ms(text: str | None) -> Any:
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)
