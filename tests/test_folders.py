"""A folder is there to stay: its name is flushed, and those of the folders above it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rc_push import folders
from rc_push.folders import make_folder, sync_folder


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
