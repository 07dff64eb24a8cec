"""Which events have come over both of two connections? By a second key, where their uuids differ.

RingCentral does not document whether one event has the same uuid on two of its subscriptions. Where it has, the journal
knows it again by itself, and the second key does not count: it could take two events that say the same for one.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from rc_push.envelope import Envelope

# Twins come within this time of each other: the connections are there at the same time.
WITHIN_MS = 5000
# After the first has ended, the second may still bring what the first has brought.
TWINS_AFTER_S = 10.0

Side = Literal["old", "new"]
Key = tuple[str, str, str]


class Twins:
    """What two connections have brought. What `sift` lets pass is taken for stored."""

    def __init__(self) -> None:
        self._sides: dict[Side, _Kept] = {"old": _Kept(), "new": _Kept()}
        self._has_one_uuid = False

    def sift(self, side: Side, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Return *envelopes*, which came over *side*, without those that the other one has brought already.

        Each one there has one twin here, however many say the same.
        """
        mine, theirs = self._sides[side], self._sides["new" if side == "old" else "old"]
        new = [envelope for envelope in envelopes if not mine.has_brought(envelope)]
        self._has_one_uuid = self._has_one_uuid or any(map(theirs.has_brought, new))
        kept = []
        for envelope in envelopes:
            if mine.has_given_up(envelope):  # sent again over this side
                continue
            if not self._has_one_uuid and not mine.has_brought(envelope) and theirs.take_twin(envelope):
                mine.give_up(envelope)
                continue
            mine.add(envelope)
            kept.append(envelope)
        return kept

    def forget(self) -> None:
        """Forget what had come before this was called the last time.

        By calls and not by times: what waits for a slow disk is sifted long after it was received.
        """
        for kept in self._sides.values():
            kept.forget()


class _Kept:
    """What one connection has brought, since the last `forget` and in the time before it."""

    def __init__(self) -> None:
        self._spans = [_Brought(), _Brought()]

    def forget(self) -> None:
        self._spans = [_Brought(), self._spans[0]]

    def add(self, envelope: Envelope) -> None:
        """Take *envelope* in, once."""
        if not self.has_brought(envelope):
            self._spans[0].add(envelope)

    def give_up(self, envelope: Envelope) -> None:
        """Take note of *envelope*, of which the other connection has brought a twin."""
        self._spans[0].twins.add(envelope.uuid)

    def has_brought(self, envelope: Envelope) -> bool:
        return any(envelope.uuid in span.uuids for span in self._spans)

    def has_given_up(self, envelope: Envelope) -> bool:
        return any(envelope.uuid in span.twins for span in self._spans)

    def take_twin(self, envelope: Envelope) -> bool:
        """Say whether there is a twin of *envelope*; from now on there is one less."""
        return any(span.take_twin(envelope) for span in self._spans)


class _Brought:
    """What one connection has brought and has no twin yet; *twins* are the uuids of what the other had brought."""

    def __init__(self) -> None:
        self.uuids: set[str] = set()
        self.twins: set[str] = set()
        self._unsorted: list[Envelope] = []
        self._at_ms: defaultdict[Key, list[int]] = defaultdict(list)

    def add(self, envelope: Envelope) -> None:
        """Take *envelope* in; its key costs a look into its body, so that it has to wait until one is asked for."""
        self.uuids.add(envelope.uuid)
        self._unsorted.append(envelope)

    def take_twin(self, envelope: Envelope) -> bool:
        """Say whether there is a twin of *envelope*; from now on there is one less."""
        while self._unsorted:
            known = self._unsorted.pop()
            self._at_ms[key_of(known)].append(known.received_at_ms)
        moments = self._at_ms.get(key_of(envelope), [])
        nearest = min(moments, key=lambda at_ms: abs(at_ms - envelope.received_at_ms), default=None)
        if nearest is None or abs(nearest - envelope.received_at_ms) > WITHIN_MS:
            return False
        moments.remove(nearest)
        return True


def key_of(envelope: Envelope) -> Key:
    """Return what two notifications of one event have in common: type, and what its body is about, or all of it."""
    body = envelope.body
    if isinstance(body, dict) and body.get("id") and body.get("lastModifiedTime"):
        return envelope.type, str(body["id"]), str(body["lastModifiedTime"])
    text = json.dumps(body, sort_keys=True)
    return envelope.type, "", hashlib.sha256(text.encode()).hexdigest()
