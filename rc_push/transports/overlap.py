"""What do two connections bring that are there at the same time? Each event once, and what neither has brought.

Knows batches and times; knows nothing of how connections begin and end.
"""

from __future__ import annotations

from rc_push.envelope import Batch, Gap
from rc_push.transports.twins import Side, Twins

# The edges of the time beside each other count for no connection: what one has just brought, the other is to bring.
EDGE_SHARE = 0.2


class Overlap:
    """An old connection and a new one. Instants are ms since 1970; *heard_at_ms* is when the old one last had one."""

    def __init__(self, heard_at_ms: int) -> None:
        self.confirmed_at_ms: int | None = None
        self._heard_at_ms = heard_at_ms
        self._has_old = False
        self._new_at_ms: list[int] = []
        self._twins = Twins()

    def sift(self, side: Side, batch: Batch) -> Batch:
        """Return *batch* without the events that the other side has brought; they are counted in it."""
        if side == "old":
            self._has_old = self._has_old or bool(batch.envelopes)
        else:
            self._new_at_ms += [envelope.received_at_ms for envelope in batch.envelopes]
        kept = self._twins.sift(side, batch.envelopes)
        batch.twins += len(batch.envelopes) - len(kept)
        batch.envelopes = kept
        return batch

    def gaps(self, old: Batch, seen_at_ms: int | None, transport: str, until_ms: int) -> list[Gap]:
        """Return what is missing although the new connection took over.

        *old* is the last of the old one, which was seen to have brought all up to *seen_at_ms*. Both were there until
        *until_ms*.
        """
        assert self.confirmed_at_ms is not None  # noqa: S101 - nothing takes over before
        confirmed_at_ms = self.confirmed_at_ms
        if old.cursor:
            seen_at_ms = old.cursor.seen_at_ms
        is_clean = old.cursor is not None and old.cursor.is_clean
        reason = "connection lost"
        since_ms = confirmed_at_ms
        if not is_clean and seen_at_ms is not None:
            since_ms = min(since_ms, seen_at_ms)
        if self._was_deaf(confirmed_at_ms, until_ms):
            since_ms = min(since_ms, self._heard_at_ms)
            if is_clean:
                reason = "connection was deaf"
        if since_ms == confirmed_at_ms:
            return []
        return [Gap(old.subscription, transport, since_ms, confirmed_at_ms, reason, "possible")]

    def _was_deaf(self, since_ms: int, until_ms: int) -> bool:
        """Say whether the new one has brought events while the old one, which should have had them too, had none."""
        edge_ms = (until_ms - since_ms) * EDGE_SHARE
        return not self._has_old and any(since_ms + edge_ms < at_ms < until_ms - edge_ms for at_ms in self._new_at_ms)
