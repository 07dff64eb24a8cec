"""Is nothing lost? Looks at a journal as it is found after the power was cut, and goes on with it.

Knows what a life of a store notes (`store_life.py`), and what was promised at any moment of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from power.recording import Record

from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalCorrupt
from rc_push.journal import Reader, Store
from rc_push.journal.check import check
from rc_push.journal.opening import connect_read_only
from rc_push.journal.salvage import salvage
from rc_push.journal.segments import SEGMENT_MIN_BYTES

SUBSCRIPTION, SOURCE = "team", Source("main", "team", "websocket")


@cache
def payload_of(uuid: str) -> bytes:
    """Return the payload of *uuid*, whose last part says how long a text is in it: no two have a sector in common."""
    size = int(uuid.rpartition("-")[2])
    text = hashlib.shake_128(uuid.encode()).hexdigest(size // 2 + 1)
    return json.dumps({"uuid": uuid, "event": "/team-messaging/v1/posts", "body": {"text": text}}).encode()


def event(uuid: str, received_at_ms: int = 0) -> Envelope:
    return Envelope(uuid, "post.added", payload_of(uuid), SOURCE, received_at_ms)


def batch(uuids: Iterable[str], **fields: object) -> Batch:
    return Batch(SUBSCRIPTION, [event(uuid) for uuid in uuids], account="main", **fields)


@dataclass(slots=True)
class Promised:
    """What was promised so far: read from notes, in their order among the writes.

    *given* may be there, *stored* has to be, at its position, unless it was *leaving*. A handler's position is one of
    what was noted to be *moving* since it *moved*, or that.
    """

    given: set[str] = field(default_factory=set)
    stored: dict[str, int] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    moved: dict[str, int] = field(default_factory=dict)
    moving: dict[str, int] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        if record.op != "n":
            return
        told = json.loads(record.one)
        self.given.update(told.get("giving", ()))
        self.stored.update(told.get("stored", {}))
        self.leaving.update(told.get("leaving", ()))
        self.moving.update(told.get("moving", {}))
        self.moved.update(told.get("moved", {}))


def see_whole(path: Path, promised: Promised, *, may_salvage: bool = False) -> None:
    """See that the journal at *path* has what was *promised*, and goes on. One that *may* be damaged is salvaged."""
    findings = opened(path)
    if may_salvage and findings:
        salvage(path, (SUBSCRIPTION,))
        findings = opened(path)
    assert not findings, findings
    found = _see_events(path, promised)
    _see_progress(path, promised)
    see_going_on(path, promised, found)


def opened(path: Path) -> list[str]:
    """Open the journal as a daemon does when it starts; return what `journal check` then finds."""
    try:
        with closing(Store(path)) as store, store.transaction():
            store.tidy()
    except JournalCorrupt as exc:
        return [str(exc)]
    return checked(path)


def checked(path: Path) -> list[str]:
    with closing(connect_read_only(path)) as db:
        return [finding.found for finding in check(db)]


def _see_events(path: Path, promised: Promised) -> dict[str, int]:
    found = {}
    with closing(Reader(path)) as reader:
        position = 0
        while events := reader.after(position, 256):
            position = events[-1].position
            for one in events:
                if one.source.origin == "live" and one.type == "post.added":
                    assert one.uuid in promised.given, f"{one.uuid} came from nowhere"
                    assert one.payload == payload_of(one.uuid), f"{one.uuid} at {one.position} has another payload"
                    found[one.uuid] = one.position
    lost = [uuid for uuid in promised.stored if uuid not in found and uuid not in promised.leaving]
    assert not lost, f"{len(lost)} stored events are lost: {lost[:5]}"
    moved = [uuid for uuid, at in promised.stored.items() if found.get(uuid, at) != at]
    assert not moved, f"these have another position than was reported: {moved[:5]}"
    return found


def _see_progress(path: Path, promised: Promised) -> None:
    with closing(connect_read_only(path)) as db:
        positions = dict(db.execute("SELECT name, position FROM handlers"))
    for name, position in promised.moved.items():
        assert position <= positions.get(name, -1) <= promised.moving[name], (name, position, positions)


def see_going_on(path: Path, promised: Promised, found: dict[str, int]) -> None:
    """See that events are stored behind all that was reported, in rows and in a segment, and can be read again."""
    more = ["more-1-300", *(f"more-{number}-5000" for number in range(2, 2 + SEGMENT_MIN_BYTES // 5000 + 1))]
    promised_head = max(promised.stored.values(), default=0)
    with closing(Store(path)) as store:
        for uuids in (more[:1], more[1:]):
            with store.transaction():
                assert store.append(batch(uuids)).stored == len(uuids)
        head = store.head()
    assert head - len(more) >= max(promised_head, *found.values(), 0)
    assert not checked(path)
    with closing(Reader(path)) as reader:
        got = {one.uuid: one.payload for one in reader.after(head - len(more), len(more))}
    assert got == {uuid: payload_of(uuid) for uuid in more}
