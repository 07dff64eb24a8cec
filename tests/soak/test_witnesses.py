"""Do the witnesses see everything once: through rotations, with half a line at the end, and with events removed?"""

from __future__ import annotations

from contextlib import closing

import pytest
from course import audit_complaints
from witnesses import FileWitness, JournalWitness

from rc_push.envelope import Batch, Envelope, Gap, Source
from rc_push.journal.store import Store

SOURCE = Source("posts", "main", "websocket", "live")


def line(uuid):
    return b'{"uuid":"%d","event":"/posts"}\n' % uuid


@pytest.fixture
def witness(tmp_path):
    made = FileWitness(tmp_path / "events.jsonl")
    yield made
    made.close()


def test_a_file_is_read_as_it_grows_and_half_a_line_waits(tmp_path, witness):
    path = tmp_path / "events.jsonl"
    witness.look()
    path.write_bytes(line(1) + line(2)[:10])
    witness.look()
    assert list(witness.seen) == [1]
    with path.open("ab") as file:
        file.write(line(2)[10:])
    witness.look()
    assert list(witness.seen) == [1, 2]


def test_what_was_rotated_away_is_read_to_its_end_before_the_new_file(tmp_path, witness):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1))
    witness.look()
    with path.open("ab") as file:
        file.write(line(2))
    path.rename(tmp_path / "events.jsonl-20261123T100000Z")
    witness.look()
    assert list(witness.seen) == [1, 2]
    path.write_bytes(line(3))
    witness.look()
    assert list(witness.seen) == [1, 2, 3]


def test_the_journal_is_read_on_behind_what_was_removed_without_our_own_events(tmp_path):
    path = tmp_path / "journal.db"
    witness = JournalWitness(path)
    witness.look()
    with closing(Store(path)) as store:
        for number in (1, 2, 3):
            gaps = [Gap("posts", "websocket", 1, 2, "connection lost", "possible")] if number == 2 else []
            envelope = Envelope(str(number), "post.added", b"{}", SOURCE, number)
            with store.transaction():
                store.append(Batch("posts", [envelope], gaps=gaps))
            witness.look()
            with store.transaction():
                store.prune(1 << 60, 100)
    assert {name: list(uuids) for name, uuids in witness.stored.items()} == {"posts": [1, 2, 3]}
    assert witness.oldest_ms == 3


def test_an_audit_that_counts_otherwise_than_the_witness_is_a_complaint():
    posts = {"subscription": "posts", "stored": 3, "addsUp": True}
    assert list(audit_complaints([posts], {"posts": 3})) == []
    assert list(audit_complaints([posts], {"posts": 2})) == ["audit: posts has stored 3, seen in the journal were 2"]
    wrong = {"handler": "file", "addsUp": False}
    assert list(audit_complaints([posts, wrong], {"posts": 3})) == [f"audit: {wrong}"]
    assert list(audit_complaints([], {})) == ["audit: it said nothing"]
