"""Which event may be handed over next? Order by key, through failures, retries and several calls at a time.

State only: knows no clock (`now` is an argument), no task, no journal and no handler.

A key has a lane while one of its events waits for a retry, is given up and not noted yet, or is in the handler's hands
where others could overtake it. What comes behind in the same lane is held back; everything else passes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rc_push.dispatch.tracks import Step
from rc_push.envelope import Envelope

Order = Literal["key", "strict", "none"]


@dataclass(slots=True, eq=False)
class Entry(Step):
    """One event on its way through one handler.

    *envelope* is None where it has to be read again. *attempts* count towards max_attempts, *calls* are all of them.
    *is_recorded*: the journal knows (or will in a moment) that it is unfinished. *is_replay*: it was done before.
    """

    envelope: Envelope | None = None
    key: str | None = None
    attempts: int = 0
    calls: int = 0
    since_ms: int = 0
    reason: str = ""
    is_recorded: bool = False
    is_replay: bool = False
    lane: _Lane | None = None
    breaks: int = 0


@dataclass(slots=True, eq=False)
class _Lane:
    """The events of one *key*: *hands* are being handed over, or one is *failing*; the others wait.

    Also for the *given_up*: so many of which it is not noted yet that they are. What was taken together comes one
    after the other until one *breaks* the row: the others then wait for their turn, however soon that one is over.
    """

    key: str
    hands: int = 0
    given_up: int = 0
    breaks: int = 0
    failing: Entry | None = None
    waiting: list[tuple[int, int, Entry]] = field(default_factory=list)


class Lanes:
    """The events of one handler that are not finished. *key_of* is asked only where order could be lost.

    *is_parallel*: several takers at a time. With the order "strict" there must be one taker.
    """

    def __init__(self, order: Order, key_of: Callable[[Envelope], str], *, is_parallel: bool = False) -> None:
        self._order = order
        self._key_of = key_of
        self._is_keyed = is_parallel and order == "key"
        self._fresh: deque[Entry] = deque()
        self._ready: deque[Entry] = deque()
        self._due: list[tuple[float, int, Entry]] = []
        self._lanes: dict[str, _Lane] = {}
        self._held_back: list[Entry] = []
        self._count = 0
        self.held = 0

    @property
    def fresh(self) -> int:
        """How many are there that nobody has looked at."""
        return len(self._fresh)

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to take, whatever time it is."""
        return not (self._fresh or self._ready or self._due)

    @property
    def is_blocked(self) -> bool:
        """Say whether nothing at all may pass: the order is strict, and something has failed or is given up."""
        return self._order == "strict" and bool(self._lanes)

    @property
    def waiting(self) -> int:
        """How many wait for a retry, or behind one, or until it is noted that one before them is given up."""
        return len(self._due) + self.held

    def next_due_at(self) -> float | None:
        """Return when the next retry is due."""
        return self._due[0][0] if self._due else None

    def add(self, entry: Entry) -> None:
        """Take *entry*; those of one track come in its order."""
        self._fresh.append(entry)

    def take(self, limit: int, now: float, *, fresh_first: bool = False) -> list[Entry]:
        """Return what may be handed over now, in order: one retry that is due, or up to *limit* others.

        Each has to be given back: by `finish`, `give_up`, `retry`, `hold` or `put_back`.
        """
        if not fresh_first and self.has_due(now):
            return [self._take_due()]
        if self.is_blocked:
            if self._ready and self._ready[0].lane is not None:  # what blocks it, put back
                return [self._ready.popleft()]
            return [self._take_due()] if self.has_due(now) else []
        taken: list[Entry] = []
        lanes: set[_Lane] = set()
        while len(taken) < limit and (entry := self._next(lanes)):
            taken.append(entry)
        if not taken and self.has_due(now):
            return [self._take_due()]
        return taken

    def has_due(self, now: float) -> bool:
        """Say whether a retry is due."""
        return bool(self._due) and self._due[0][0] <= now

    def holds(self, entry: Entry) -> bool:
        """Say whether *entry*, which was taken, has to wait after all: one before it has failed meanwhile."""
        if not self._lanes or self._order == "none":
            return False
        lane = self._lanes.get(self.key(entry))
        if lane is None:
            return False
        if entry.lane is not None:  # taken with others of its lane: has one of them broken the row since?
            return entry.breaks != lane.breaks
        return lane.failing is not None or lane.given_up > 0 or lane.hands > 0

    def hold(self, entry: Entry) -> None:
        """Let *entry*, which was taken, wait in its lane."""
        lane = self._lanes[self.key(entry)]
        self._leave(entry)
        self._wait_in(lane, entry)
        self._release(lane)  # what it waited for may be over

    def finish(self, entry: Entry) -> None:
        """Forget *entry*, which is done; the next of its key may come."""
        lane = entry.lane
        if lane is not None:
            self._leave(entry)
            self._release(lane)

    def give_up(self, entry: Entry) -> None:
        """Forget *entry*, which will not be done; the next of its key may come once that is `noted`."""
        if self._order != "none":
            lane = self._lane_for(entry)
            self._leave(entry)
            lane.given_up += 1
            lane.breaks += 1

    def noted(self, entry: Entry) -> None:
        """Let the next of its key come: after a crash, too, *entry* is given up."""
        if self._order != "none":
            lane = self._lane_for(entry)
            lane.given_up -= 1
            self._release(lane)

    def retry(self, entry: Entry, due_at: float) -> None:
        """Let *entry* wait until *due_at*, and all that follows it in its order.

        Where another of its key waits already (it was restored meanwhile), it waits behind that one.
        """
        if self._order != "none":
            lane = self._lane_for(entry)
            self._leave(entry)
            if lane.failing is not None:
                self._wait_in(lane, entry)
                return
            lane.failing = entry
            lane.breaks += 1
            self._held_back += [held for _, _, held in lane.waiting]
        self._count += 1
        heapq.heappush(self._due, (due_at, self._count, entry))

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Take *entries* back that were not handed over; they are the next, one of each lane at a time."""
        lanes: dict[str, _Lane] = {}
        for entry in reversed(entries):
            if entry.lane is None:  # with the order strict, behind what blocks it
                is_blocked = self.is_blocked and bool(self._ready) and self._ready[0].lane is not None
                self._ready.insert(int(is_blocked), entry)
            else:  # one before it may have failed, and another taker may come for it
                lanes[entry.lane.key] = lane = entry.lane
                self._leave(entry)
                self._wait_in(lane, entry)
        for lane in lanes.values():
            self._release(lane)

    def restore(self, entry: Entry, due_at: float) -> None:
        """Take an *entry* that waited before the process began; those of one key in their order."""
        lane = None if self._order == "none" else self._lanes.get(self.key(entry))
        if lane is None:
            self.retry(entry, due_at)
        else:
            self._wait_in(lane, entry)

    @property
    def has_held_back(self) -> bool:
        """Say whether `take_held_back` has something."""
        return bool(self._held_back)

    def take_held_back(self) -> list[Entry]:
        """Return those that began to wait behind a failing one since the last call."""
        held, self._held_back = self._held_back, []
        return held

    def key(self, entry: Entry) -> str:
        """Return what *entry* is held back with."""
        if self._order == "strict":
            return ""
        if entry.key is None:
            # What has no envelope has been here before, and has its key.
            entry.key = self._key_of(entry.envelope) if entry.envelope else ""
        return entry.key

    # ------------------------------------------------------------------------------------------------------- one lane

    def _next(self, own: set[_Lane]) -> Entry | None:
        """Return the next that no lane holds back, but for the taker's *own*; what one does hold back goes into it."""
        while self._ready or self._fresh:
            entry = self._ready.popleft() if self._ready else self._fresh.popleft()
            if entry.lane is not None:  # let go by the one before it, or put back
                return entry
            if self._order == "none" or not (self._lanes or self._is_keyed):
                return entry
            lane = self._lanes.get(self.key(entry))
            if lane is not None and lane not in own:
                self._wait_in(lane, entry)
                continue
            if self._is_keyed:
                lane = lane or self._lane_for(entry)
                own.add(lane)
                self._enter(entry, lane)
            return entry
        return None

    def _take_due(self) -> Entry:
        _, _, entry = heapq.heappop(self._due)
        lane = None if self._order == "none" else self._lanes[self.key(entry)]
        if lane is not None:
            lane.failing = None
            self._enter(entry, lane)
        return entry

    def _lane_for(self, entry: Entry) -> _Lane:
        key = self.key(entry)
        return self._lanes.setdefault(key, _Lane(key))

    def _enter(self, entry: Entry, lane: _Lane) -> None:
        entry.lane, entry.breaks = lane, lane.breaks
        lane.hands += 1

    def _leave(self, entry: Entry) -> None:
        if entry.lane is not None:
            entry.lane.hands -= 1
            entry.lane = None

    def _wait_in(self, lane: _Lane, entry: Entry) -> None:
        self._count += 1
        heapq.heappush(lane.waiting, (entry.position, self._count, entry))
        self.held += 1
        if lane.failing is not None:
            self._held_back.append(entry)

    def _release(self, lane: _Lane) -> None:
        if lane.hands or lane.given_up or lane.failing is not None:
            return
        if not lane.waiting:
            del self._lanes[lane.key]
            return
        _, _, entry = heapq.heappop(lane.waiting)
        self.held -= 1
        self._enter(entry, lane)
        if self._order == "strict":
            self._ready.appendleft(entry)  # it blocks those that were put back
        else:
            self._ready.append(entry)
