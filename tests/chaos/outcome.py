"""What came of a run? Plain data, as the simulator, the journal, the commands and the handlers' files tell it.

Instants are ms since 1970. Those of the simulator and of the run are the true time; those that the daemon gives
(received, gaps) are its own clock's, which `clock` says how wrong it was. All of it can be written as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Emitted:
    """One event as RingCentral sent it: *payloads* by RingCentral's subscription and uuid."""

    id: str
    at_ms: int
    payloads: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """One event in the journal. *id* is the body's, by which the run knows it."""

    position: int
    subscription: str
    transport: str
    origin: str
    type: str
    received_ms: int
    uuid: str
    id: str
    chat: str
    payload: str


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap, as `gaps --json` has it."""

    subscription: str
    since_ms: int
    until_ms: int | None
    reason: str
    certainty: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a handler has written: *event* is the whole of it without rcPush, where the handler writes that."""

    position: int
    id: str
    chat: str
    event: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong by intention, or (*kind* is `machine`) because this machine was busy."""

    kind: str
    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What `rc-push audit` said *when*."""

    when: str
    exit_code: int
    said: str


@dataclass(slots=True)
class Outcome:
    """All that is known of one run, for the oracle.

    *owed* are our subscriptions, each with its transport; *withheld* the ids of events that RingCentral never sent by
    the fault `zombie`. *posts*: when each post of a webhook began, one that came again too, and whose uuid it had.
    *stopped_ms* is when the daemon was told to end, with nothing left to do; 0 = it never was.
    *fresh_s* is, by subscription, how long after the faults an event arrived; None = it never did.
    *clock*: from when on the daemon's clock was wrong by how many ms. *told*: what a daemon must never say.
    """

    owed: dict[str, str] = field(default_factory=dict)
    emitted: list[Emitted] = field(default_factory=list)
    withheld: set[str] = field(default_factory=set)
    stored: list[Stored] = field(default_factory=list)
    posts: list[tuple[int, str]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    lines: dict[str, list[Line]] = field(default_factory=dict)
    parked: dict[str, set[int]] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    clock: list[tuple[int, int]] = field(default_factory=list)
    knobs: dict[str, Any] = field(default_factory=dict)
    order: dict[str, str] = field(default_factory=dict)
    fresh_s: dict[str, float | None] = field(default_factory=dict)
    exit_code: int | None = None
    told: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    began_ms: int = 0
    healed_ms: int = 0
    stopped_ms: int = 0
    figures: dict[str, float] = field(default_factory=dict)
