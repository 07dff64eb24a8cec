"""A damaged journal on its way: wherever the process ends, the next one finds all of it, or all of the new one."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rc_push.errors import JournalError
from rc_push.journal.aside import move_aside, name_aside, note_of, settle, take_back
from rc_push.journal.store import Store

PARTS = ("", "-wal", "-journal", "-shm")
CALLS = ("rename", "link", "unlink", "mkdir", "fsync")


class Killed(BaseException):
    pass


@pytest.fixture
def path(tmp_path):
    """Make what looks like a journal with all that can be beside it."""
    path = tmp_path / "journal.db"
    for part in PARTS:
        Path(f"{path}{part}").write_text(f"old{part}")
    Path(f"{path}-segments").mkdir()
    (Path(f"{path}-segments") / "1").write_text("old segment")
    return path


def contents(path):
    """Return what there is, by name; the lock is nobody's."""
    files = [file for file in path.parent.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {str(file.relative_to(path.parent)): file.read_text() for file in files}


def dying(monkeypatch, after):
    """Let the process end at a call that changes something, *after* so many of them."""
    left = [after]

    def patch(name):
        real = getattr(os, name)

        def call(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in CALLS:
        patch(name)


def begin_anew(path):
    for part in PARTS:
        Path(f"{path}{part}").write_text(f"new{part}")


def test_cut_off_anywhere_it_is_taken_back_whole_until_it_is_settled(path, monkeypatch):
    before, damaged = contents(path), path.with_name("journal.db.damaged-1")
    settled = {name.replace("journal.db", damaged.name, 1): content for name, content in before.items()}
    settled |= {f"journal.db{part}": f"new{part}" for part in PARTS}
    settled["journal.db-segments/1"] = "old segment"
    for calls in range(100):
        with monkeypatch.context() as patch, suppress(Killed):
            dying(patch, calls)
            move_aside(path, damaged)
            begin_anew(path)
            settle(path)
        was_settled = damaged.exists() and not note_of(path).exists()
        take_back(path)
        assert contents(path) == (settled if was_settled else before), calls
        if was_settled:
            break
    assert calls > len(CALLS)


def test_to_take_it_back_can_be_cut_off_anywhere_too(path, monkeypatch):
    before, damaged = contents(path), path.with_name("journal.db.damaged-1")
    for calls in range(100):
        move_aside(path, damaged)
        begin_anew(path)
        try:
            with monkeypatch.context() as patch:
                dying(patch, calls)
                take_back(path)
        except Killed:
            take_back(path)
            assert contents(path) == before, calls
        else:
            break
    assert calls > len(CALLS)
    assert contents(path) == before


@pytest.mark.parametrize("missing", ["", "-wal", "-segments"])
def test_what_is_there_is_moved_and_taken_back_where_some_of_it_is_missing(path, missing):
    gone = Path(f"{path}{missing}")
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    before, damaged = contents(path), path.with_name("journal.db.damaged-1")
    move_aside(path, damaged)
    moved = {name for name in contents(path) if name.startswith(damaged.name)}
    assert moved == {name.replace("journal.db", damaged.name, 1) for name in before}
    take_back(path)
    assert contents(path) == before


@pytest.mark.parametrize("note", ["", "journal.db.dam", "\0" * 30, "../elsewhere", "journal.db.damaged-/../../x"])
def test_a_note_that_was_torn_moves_nothing(path, note):
    before = contents(path)
    note_of(path).write_text(note)
    take_back(path)
    assert contents(path) == before


@pytest.mark.parametrize("zone", ["UTC0", "JST-9"])
def test_the_name_is_the_time_in_utc_and_one_that_anything_has_is_not_given_again(path, monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        first = name_aside(path, 0)
        Path(f"{first}-segments").mkdir()
        second = name_aside(path, 0)
        Path(f"{second}-wal").touch()
        third = name_aside(path, 0)
    finally:
        monkeypatch.undo()
        time.tzset()
    begin = "journal.db.damaged-19700101T000000Z"
    assert [name.name for name in (first, second, third)] == [begin, f"{begin}-1", f"{begin}-2"]


def test_nobody_else_can_read_what_is_moved_nor_the_note(path):
    umask = os.umask(0)
    try:
        move_aside(path, path.with_name("journal.db.damaged-1"))
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert (modes["journal.db.salvaging"], modes["journal.db.damaged-1-segments"]) == (0o600, 0o700)


def test_the_note_says_where_it_goes_whatever_was_noted_before_and_is_closed(path):
    note_of(path).write_text("x" * 100)
    before = len(list(Path("/proc/self/fd").iterdir()))
    move_aside(path, path.with_name("journal.db.damaged-1"))
    assert note_of(path).read_text() == "journal.db.damaged-1"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_link_in_place_of_the_note_is_not_followed(path):
    before = contents(path)
    note_of(path).symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        move_aside(path, path.with_name("journal.db.damaged-1"))
    note_of(path).unlink()
    assert contents(path) == before


@pytest.fixture
def steps(path, monkeypatch):
    """Note what changes a name, and what is then on the disk: "." is the folder."""
    noted = []

    def patch(name, told):
        real = getattr(os, name)

        def call(*args, **options):
            noted.append(f"{name} {os.path.relpath(told(args[0]), path.parent)}")
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "link"):
        patch(name, os.fspath)
    patch("fsync", lambda file: Path(f"/proc/self/fd/{file}").readlink())
    return noted


def test_each_step_is_on_the_disk_before_the_next(path, steps):
    damaged, beside = path.with_name("journal.db.damaged-1"), PARTS[1:]
    move_aside(path, damaged)
    assert steps == [
        "fsync journal.db.salvaging",
        "fsync .",
        "link journal.db-segments/1",
        "fsync journal.db.damaged-1-segments",
        *(f"rename journal.db{part}" for part in beside),
        "fsync .",
        "rename journal.db",
        "fsync .",
    ]
    begin_anew(path)
    steps.clear()
    take_back(path)
    assert steps == [
        "fsync .",
        "rename journal.db.damaged-1",
        "fsync .",
        *(f"rename journal.db.damaged-1{part}" for part in beside),
        "fsync .",
        "fsync .",
    ]


def test_where_it_cannot_be_taken_back_that_is_told(tmp_path, monkeypatch):
    path = tmp_path / "journal.db"
    with closing(Store(path)):
        pass
    note_of(path).write_text("journal.db.damaged-1")
    monkeypatch.setattr(
        "rc_push.journal.aside.sync_folder", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(JournalError, match="Input/output error; look at the disk"):
        Store(path)
    monkeypatch.undo()
    with closing(Store(path)):
        assert not note_of(path).exists()
    shutil.rmtree(tmp_path)
