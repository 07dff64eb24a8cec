"""What do changes wait for? To be read in order, and to be stored."""

from __future__ import annotations

from rc_push.envelope import Batch, Gap
from rc_push.transports.changes import Changes


def batch(closes_gaps_at_ms: int | None = None, *reasons: str) -> Batch:
    gaps = [Gap("team", "pubnub", 1, 2, reason, "possible") for reason in reasons]
    return Batch("team", gaps=gaps, closes_gaps_at_ms=closes_gaps_at_ms)


async def test_what_is_put_is_taken_in_order_and_stored_only_once_that_is_said():
    changes = Changes()
    first, second = changes.put(batch(1)), changes.put(batch(2))
    changes.settle()
    assert changes
    assert not first.is_set(), "nobody has taken it"
    assert changes.take() == batch(1)
    assert not first.is_set()
    changes.settle()
    assert (first.is_set(), second.is_set()) == (True, False)
    assert changes.take() == batch(2)
    assert changes.take() is None
    assert not changes
    changes.settle()
    assert second.is_set()


async def test_an_empty_batch_is_one_too():
    changes = Changes()
    changes.put(batch())
    assert changes.take() == batch()


async def test_what_nobody_has_taken_goes_into_the_last_batch():
    changes, last = Changes(), batch(None, "a")
    changes.put(batch(7, "b"))
    changes.put(batch(None, "c"))
    changes.move_to(last)
    assert last == batch(7, "a", "b", "c")
    assert changes.take() is None
