"""Is anything lost that was stored, whenever the power is cut? The journal's writer, through all that it does.

And is the proof one? With a disk that lies about a flush it has to fail.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from power.conftest import CUTS, CUTS_EACH, FIXED_SEED, recordings
from power.cuts import Proof, moments
from power.damaged import begin_damaged
from power.disk import All, Disk, Image
from power.judge import Promised, see_whole
from power.recording import Recording

from rc_push.journal.segments import BLOCK_BYTES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TESTS = Path(__file__).parents[1]
# Below two folders that the journal itself creates.
JOURNAL = "state/rc-push/journal.db"
STEPS = 120
# Cut at each of its writes.
SHORT_STEPS = 30 if CUTS else 2
# What a disk may lie about, and what is then lost. (The log's name is flushed with the database's.)
LIES = {
    "the log": lambda path: path.endswith("-wal"),
    "the database": lambda path: path.endswith("journal.db"),
    "segments": lambda path: "-segments/" in path,
    "the names of segments": lambda path: path.endswith("-segments"),
    "the journal's folder": lambda path: path == "state/rc-push",
    "the folder above it": lambda path: path == "state",
}


@pytest.fixture
def recording(recorder, tmp_path):
    return Recording(recorder, tmp_path)


def live(recording, seed, steps=STEPS, *not_flushed):
    """Record a life; see that the record tells all of it."""
    program = str(Path(__file__).with_name("store_life.py"))
    path = recording.root / JOURNAL
    told = [str(path), str(recording.notes), str(seed), str(steps), *not_flushed]
    recording.run([sys.executable, program, *told], PYTHONPATH=TESTS)
    return replayed(recording, Image({}))


def replayed(recording, image):
    records = recording.records()
    disk = Disk(recording.root, image)
    for record in records:
        disk.do(record)
    assert disk.after(All()).entries == Image.of(recording.root).entries
    return records


def cut_life(recording, records, count, seed, **options):
    """Cut the power so many times in *records*, or (None) at each; return what became of it."""
    promised = Promised()
    disk = Disk(recording.root, lies_about=options.pop("lies_about", lambda _: False))
    proof = Proof(records, seed, lambda folder, _: see_whole(folder / JOURNAL, promised), promised.take, **options)
    each = range(len(records) + 1)
    return proof.cut(disk, each if count is None else moments(records, count, random.Random(seed)))


@recordings(0.6)
def test_nothing_that_was_stored_is_missing_whenever_the_power_is_cut(recording, tell, seed):
    tell(cut_life(recording, live(recording, seed), CUTS_EACH if CUTS else 24, seed))


def test_nothing_that_was_stored_is_missing_whichever_write_of_a_short_life_is_the_last(recording, tell):
    records = live(recording, FIXED_SEED, SHORT_STEPS)
    assert any("-segments/" in record.one.decode() for record in records if record.op == "o"), "there is no segment"
    tell(cut_life(recording, records, None, FIXED_SEED))


@pytest.mark.parametrize("what", ["segments", "names", "rows"])
def test_of_a_writer_that_leaves_out_a_flush_stored_events_are_found_to_be_missing(recording, what):
    records = live(recording, FIXED_SEED, STEPS, what)
    found = cut_life(recording, records, 60, 1, failures_max=1)
    assert found.failures, f"{found.states} states are whole, though {what} were not flushed"


@pytest.mark.parametrize("lie", LIES)
def test_with_a_disk_that_lies_the_proof_fails(recording, lie):
    records = live(recording, FIXED_SEED)
    found = cut_life(recording, records, 60, 1, lies_about=LIES[lie], failures_max=1)
    assert found.failures, f"{found.states} states are whole, though the disk lies about {lie}"


@recordings(0.1, least=1)
def test_nothing_is_missing_whenever_the_power_is_cut_while_a_damaged_journal_is_salvaged(
    recording, tmp_path, tell, seed
):
    path = recording.root / JOURNAL
    positions = begin_damaged(path, tmp_path / "aside.db")
    image = Image.of(recording.root)
    program = str(Path(__file__).with_name("damaged.py"))
    recording.run([sys.executable, program, str(path), str(recording.notes)], PYTHONPATH=TESTS)
    records = replayed(recording, image)
    promised = Promised(given=set(positions), stored=positions)
    moving = {number for number, record in enumerate(records) if record.op in "rlumos"}
    at = moving.union(moments(records, CUTS_EACH if CUTS else 8, random.Random(seed)))
    proof = Proof(records, seed, lambda folder, _: see_whole(folder / JOURNAL, promised, may_salvage=True))
    tell(proof.cut(Disk(recording.root, image), at))


def test_the_record_has_what_is_written_directly(recording):
    records = live(recording, FIXED_SEED)
    segments = [one for one in records if one.op == "o" and b"-segments/" in one.one]
    assert {bool(one.number & os.O_DIRECT) for one in segments} == {takes_direct_writes(recording.root)}
    handles = {one.handle for one in segments}
    written = [one for one in records if one.op == "w" and one.handle in handles]
    assert all(one.number % BLOCK_BYTES == len(one.one) % BLOCK_BYTES == 0 for one in written)
    flushed = {one.handle for one in records if one.op == "s"}
    assert {one.handle for one in written} <= flushed


def takes_direct_writes(folder):
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT)
    except OSError:
        return False
    os.close(file)
    return True


def test_the_recorder_tells_what_it_cannot_record(recording):
    (recording.root / "a").write_bytes(b"x")
    program = "import os; a = os.open('a', os.O_RDWR); os.sendfile(os.open('b', os.O_RDWR | os.O_CREAT), a, 0, 1)"
    recording.run([sys.executable, "-c", f"import os; os.chdir({str(recording.root)!r}); {program}"])
    assert [record.one for record in recording.records() if record.op == "!"] == [b"sendfile"]


def test_a_failure_names_what_it_takes_to_see_it_again(recording):
    records = live(recording, FIXED_SEED, 10)

    def judge(folder, _):
        assert not os.listdir(folder), "something is there"  # noqa: PTH208 - whether, not what

    found = Proof(records, 7, judge).cut(Disk(recording.root), [len(records)])
    assert found.failures[0].startswith(
        f"seed 7, cut {len(records)}, state 0 (flushed only): AssertionError: something"
    )
