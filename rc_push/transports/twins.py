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
        self._sides: dict[Side, _Brought] = {"old": _Brought(), "new": _Brought()}
        self._has_one_uuid = False

    def sift(self, side: Side, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Return *envelopes*, which came over *side*, without those that the other one has brought already.

        Each one there has one twin here, however many say the same.
        """
        mine, theirs = self._sides[side], self._sides["new" if side == "old" else "old"]
        new = [envelope for envelope in envelopes if envelope.uuid not in mine.uuids]
        self._has_one_uuid = self._has_one_uuid or any(envelope.uuid in theirs.uuids for envelope in new)
        kept = []
        for envelope in envelopes:
            if envelope.uuid in mine.twins:  # sent again over this side
                continue
            if not self._has_one_uuid and envelope.uuid not in mine.uuids and theirs.take_twin(envelope):
                mine.twins.add(envelope.uuid)
                continue
            mine.add(envelope)
            kept.append(envelope)
        return kept


class _Brought:
    """What one connection has brought and has no twin yet; *twins* are the uuids of what the other had brought."""

    def __init__(self) -> None:
        self.uuids: set[str] = set()
        self.twins: set[str] = set()
        self._unsorted: list[Envelope] = []
        self._at_ms: defaultdict[Key, list[int]] = defaultdict(list)

    def add(self, envelope: Envelope) -> None:
        """Take *envelope* in; its key costs a look into its body, so that it has to wait until one is asked for."""
        if envelope.uuid not in self.uuids:
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
