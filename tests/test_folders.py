"""A folder is there to stay: its name is flushed, and those of the folders above it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rc_push import folders
from rc_push.folders import is_folder, make_folder, mode_of, sync_folder


@pytest.fixture
def flushed(monkeypatch):
    """Return the folders that were flushed, in order."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    return seen


def test_all_that_could_be_new_is_flushed_again_too(tmp_path, flushed):
    for _ in range(2):  # the process that created it may have been killed before it could
        flushed.clear()
        make_folder(tmp_path / "a" / "b", 0o700)
        assert flushed[:2] == [str(tmp_path / "a"), str(tmp_path)]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_what_is_missing_above_has_the_same_mode_and_what_is_there_keeps_its_own(tmp_path):
    (tmp_path / "there").mkdir(0o711)
    before = os.umask(0o022)
    try:
        make_folder(tmp_path / "there" / "a" / "b" / "c", 0o750)
        make_folder(tmp_path / "there" / "a", 0o700)
    finally:
        os.umask(before)
    made = [path.relative_to(tmp_path / "there") for path in sorted(tmp_path.rglob("*")) if path.name != "there"]
    assert list(map(str, made)) == ["a", "a/b", "a/b/c"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))]
    assert modes == [0o711, 0o750, 0o750, 0o750]


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_folder(folder, 0o700)


def test_what_others_have_created_is_left_to_them(tmp_path, monkeypatch, flushed):
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    make_folder(tmp_path / "a" / "b", 0o700)
    assert flushed == [str(tmp_path / "a")]


def test_flushing_can_be_left_out(tmp_path, flushed):
    make_folder(tmp_path / "a", 0o700, fsync=False)
    assert (tmp_path / "a").is_dir()
    assert flushed == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_a_file_system_that_flushes_no_folders_is_used_as_it_is(tmp_path, monkeypatch, number):
    monkeypatch.setattr(folders, "sync_folder", failing(number))
    make_folder(tmp_path / "a", 0o700)
    assert (tmp_path / "a").is_dir()


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "sync_folder", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        make_folder(tmp_path / "a", 0o700)


def test_no_descriptor_is_left_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def failing(number):
    def fail(_):
        raise OSError(number, os.strerror(number))

    return fail


def test_what_this_user_cannot_see_is_no_folder_and_no_error(tmp_path, monkeypatch):
    def forbidden(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "file").touch(0o600)
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "file")
    assert stat.S_IMODE(mode_of(tmp_path / "file")) == 0o600
    assert mode_of(tmp_path / "none") == mode_of(tmp_path / "file" / "below") == 0
    monkeypatch.setattr(Path, "stat", forbidden)
    assert not is_folder(tmp_path)
