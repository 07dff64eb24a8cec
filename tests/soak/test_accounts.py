"""Does the account see what was lost, and hold nothing against a gap?"""

from __future__ import annotations

from accounts import at_ms, settle, unseen

from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.uuids import Uuids

T0_MS = 1_800_000_000_000


def uuids(count, at=T0_MS):
    return [int(uuid) for uuid in Uuids(Clock(wall=lambda: at / 1000), Knobs()).take(count)]


def test_a_uuid_tells_when_it_was_emitted():
    assert {at_ms(uuid) for uuid in uuids(3)} == {T0_MS}


def test_what_is_missing_lies_in_a_gap_or_is_lost():
    early, late = uuids(3), uuids(3, T0_MS + 60_000)
    gap = (T0_MS - 1000, T0_MS + 5000)
    account = settle("posts", early + late, late[:2] + early[:1], [gap])
    assert (account.emitted, account.stored) == (6, 3)
    assert account.missing == tuple(early[1:])
    assert account.lost == (late[2],)
    assert account.complaints == [f"posts: 1 events ({late[2]}) neither stored nor in a gap"]
    assert account.emitted == account.stored + len(account.missing) + len(account.lost)


def test_what_adds_up_has_no_complaints():
    sent = uuids(5)
    assert settle("posts", sent, sent[::-1], []).complaints == []


def test_what_was_never_emitted_and_what_stands_there_twice_is_named():
    sent, other = uuids(2), uuids(1, T0_MS + 1)
    account = settle("posts", sent, [*sent, sent[0], *other], [])
    assert account.twice == (sent[0],)
    assert account.strange == tuple(other)
    assert len(account.complaints) == 2


def test_a_handler_owes_nothing_but_what_is_stored():
    stored = uuids(4)
    assert unseen("file", stored, [*stored, stored[0]]) == []
    assert unseen("file", stored, stored[:3]) == [f"file: never saw 1 events ({stored[3]})"]
    assert unseen("file", stored[:3], stored) == [f"file: saw 1 events ({stored[3]}), not stored"]
