"""Does it add up? Of each subscription: `emitted = stored + in gaps`; of each handler: it saw what was stored.

Events are known by the number that the simulator's uuids are, which tells when each was emitted. Pure: knows numbers;
knows nothing of where they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rc_push.simulator.uuids import COUNTER_BITS, EPOCH_MS

# An event has its moment before it is on its way, and two processes read their clocks.
SLACK_MS = 250

Span = tuple[int, int]


def at_ms(uuid: int) -> int:
    """Return when the event *uuid* was emitted, in ms since 1970."""
    return (uuid >> COUNTER_BITS) + EPOCH_MS


@dataclass(frozen=True, slots=True)
class Account:
    """What became of what was emitted for one subscription.

    *missing* are those that are in a gap and not stored, *lost* those that are in none; *strange* are stored and were
    never emitted, *twice* stand in the journal more than once.
    """

    subscription: str
    emitted: int
    stored: int
    missing: tuple[int, ...]
    lost: tuple[int, ...]
    strange: tuple[int, ...]
    twice: tuple[int, ...]

    @property
    def complaints(self) -> list[str]:
        """Say what does not add up."""
        whats = {
            "neither stored nor in a gap": self.lost,
            "stored and never emitted": self.strange,
            "stored twice": self.twice,
        }
        return [f"{self.subscription}: {_some(uuids)} {what}" for what, uuids in whats.items() if uuids]


def settle(
    subscription: str, emitted: Iterable[int], stored: Sequence[int], gaps: Sequence[Span], slack_ms: int = SLACK_MS
) -> Account:
    """Return the account of *subscription*; *gaps* are (since, until), in ms since 1970."""
    sent, kept = set(emitted), set(stored)
    absent = sorted(sent - kept)
    lost = tuple(uuid for uuid in absent if not is_in(gaps, at_ms(uuid), slack_ms))
    return Account(
        subscription,
        emitted=len(sent),
        stored=len(sent & kept),
        missing=tuple(sorted(set(absent) - set(lost))),
        lost=lost,
        strange=tuple(sorted(kept - sent)),
        twice=() if len(stored) == len(kept) else tuple(uuid for uuid, count in Counter(stored).items() if count > 1),
    )


def is_in(gaps: Sequence[Span], moment_ms: int, slack_ms: int) -> bool:
    """Say whether *moment_ms* lies in one of *gaps*."""
    return any(since - slack_ms <= moment_ms <= until + slack_ms for since, until in gaps)


def unseen(handler: str, stored: Iterable[int], seen: Iterable[int]) -> list[str]:
    """Say what of *stored* a *handler* that has *seen* so much was not handed, and what it was and is not stored."""
    owed, had = set(stored), set(seen)
    complaints = [f"{handler}: never saw {_some(sorted(owed - had))}"] if owed - had else []
    return complaints + ([f"{handler}: saw {_some(sorted(had - owed))}, not stored"] if had - owed else [])


def _some(uuids: Sequence[int]) -> str:
    return f"{len(uuids)} events ({', '.join(map(str, uuids[:3]))}{' …' if len(uuids) > 3 else ''})"
