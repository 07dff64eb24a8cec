"""Few files are open at a time, rotated in passing, and a batch finds the file of each of its lines."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rc_push.errors import HandlerError, detail_of
from rc_push.handlers import files as module
from rc_push.handlers.files import CLOSE_AFTER_S, OPEN_MAX, LineFiles, unreserved
from rc_push.handlers.json_lines import JsonLinesFile
from rc_push.handlers.rotation import Rotation


class Clock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(clock: Clock, tmp_path: Path) -> Iterator[LineFiles]:
    made = LineFiles(Rotation(), fsync="batch", is_json=True, folder=tmp_path, now=clock)
    yield made
    made.close()


def rotated(path: Path, **options: object) -> LineFiles:
    made = LineFiles(Rotation(max_bytes=1024), **{"fsync": "never", "is_json": True} | options)
    made.open(path)
    return made


def open_files() -> list[str]:
    return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if not entry.name.startswith(".")}


def test_each_file_gets_its_lines_in_order(files: LineFiles, tmp_path: Path) -> None:
    files.append({tmp_path / "a" / "x": [b"{1}\n", b"{3}\n"], tmp_path / "b": [b"{2}\n"]})
    files.append({tmp_path / "b": [b"{4}\n"]})
    assert (tmp_path / "a" / "x").read_bytes() == b"{1}\n{3}\n"
    assert (tmp_path / "b").read_bytes() == b"{2}\n{4}\n"


def test_no_more_files_are_open_than_allowed_however_many_there_are(files: LineFiles, tmp_path: Path) -> None:
    before = len(open_files())
    for number in range(3 * OPEN_MAX):
        files.append({tmp_path / f"{number:03}": [b"{1}\n"], tmp_path / "often": [b"{1}\n"]})
        assert len(open_files()) <= before + 2 * OPEN_MAX
    files.append({tmp_path / "000": [b"{2}\n"]})
    files.close()
    assert len(open_files()) == before
    assert len(list(tmp_path.iterdir())) == 3 * OPEN_MAX + 1, "notes are gone"
    assert (tmp_path / "000").read_bytes() == b"{1}\n{2}\n"
    assert (tmp_path / "often").read_bytes() == b"{1}\n" * 3 * OPEN_MAX


def test_a_file_that_gets_no_lines_any_more_is_closed(files: LineFiles, tmp_path: Path, clock: Clock) -> None:
    yesterday, today = tmp_path / "yesterday", tmp_path / "today"
    files.append({yesterday: [b"{1}\n"]})
    clock.at += timedelta(seconds=CLOSE_AFTER_S - 1)
    files.append({today: [b"{1}\n"]})
    assert str(yesterday) in open_files()
    clock.at += timedelta(seconds=2)
    files.append({today: [b"{2}\n"]})
    assert str(yesterday) not in open_files()
    assert str(today) in open_files()


def test_folders_that_were_removed_are_created_again_but_not_the_first(files: LineFiles, tmp_path: Path) -> None:
    inner = tmp_path / "2026-11-23" / "post.added"
    files.append({inner: [b"{1}\n"]})
    shutil.rmtree(inner.parent)
    with pytest.raises(FileNotFoundError):
        files.append({inner: [b"{2}\n"]})
    files.append({inner: [b"{2}\n"]})
    assert inner.read_bytes() == b"{2}\n"
    tmp_path.rename(tmp_path.with_name("unmounted"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.append({inner: [b"{3}\n"]})
    assert not tmp_path.exists()
    tmp_path.with_name("unmounted").rename(tmp_path)


def test_a_folder_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HandlerError, match=r"cannot create .*file/logs: .*; name a folder that can be created"):
        LineFiles(Rotation(), fsync="batch", is_json=True, folder=tmp_path / "file" / "logs").open(None)
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    with pytest.raises(HandlerError, match=r"cannot write in .*; let the user that rc-push runs as write there"):
        LineFiles(Rotation(), fsync="batch", is_json=True, folder=tmp_path / "logs").open(None)


def broken_disk(file: JsonLinesFile) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(file._path))


def test_of_a_path_made_of_an_event_the_template_is_told_and_the_path_in_the_detail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, path = f"{tmp_path}/{{body.text}}", tmp_path / "private"
    made = LineFiles(Rotation(max_bytes=1024), fsync="never", is_json=True, folder=tmp_path, template=template)
    path.mkdir()
    with pytest.raises(HandlerError) as opened:
        made.append({path: [b"{1}\n"]})
    path.rmdir()
    made.append({path: [b"{1}\n"]})
    path.rename(tmp_path / "kept")
    path.symlink_to(path)
    with pytest.raises(OSError, match="Too many levels") as linked:
        made.append({path: [b"{2}\n"]})
    path.unlink()
    made.append({path: [b"{2}\n"]})
    monkeypatch.setattr(JsonLinesFile, "close", broken_disk)
    with pytest.raises(OSError, match="Input/output") as closed:
        made.close()
    for caught in (opened, linked, closed):
        told = "".join(traceback.format_exception(caught.value))
        assert template in str(caught.value)
        assert "private" not in told
        assert detail_of(caught.value) == str(path)


def test_a_rotation_that_fails_tells_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template, path = f"{tmp_path}/{{body.text}}", tmp_path / "private"
    made = LineFiles(Rotation(max_bytes=1024), fsync="never", is_json=True, folder=tmp_path, template=template)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "rename", lambda path, target: path.with_suffix(".gone").replace(target))
        for _ in range(2):
            made.append({path: [b"{" + b"1" * 900 + b"}\n"]})
    made.close()
    assert [(entry["event"], entry["path"]) for entry in logs] == [("file_not_rotated", template)]
    assert "private" not in str(logs)


def test_always_means_each_line_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = LineFiles(Rotation(), fsync="always", is_json=True)
    made.open(tmp_path / "a")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append((tmp_path / "a").stat().st_size))
    made.append({tmp_path / "a": [b"{1}\n", b"{2}\n", b"{3}\n"]})
    made.close()
    assert flushed == [4, 8, 12]


@pytest.mark.parametrize("setting", ["batch", "always", "never"])
def test_a_batch_with_nothing_in_it_changes_nothing(tmp_path: Path, setting: str) -> None:
    made = LineFiles(Rotation(max_bytes=1024), fsync=setting, is_json=True)
    made.append({})
    made.close()
    assert contents(tmp_path) == {}


def test_a_rotation_leaves_whole_lines_in_both_files_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    made = rotated(path)
    assert made.append({path: [b"{" + b"1" * 900 + b"}\n"]}) == set()
    assert made.append({path: [b"{" + b"2" * 900 + b"}\n"]}) == {path}
    assert made.append({path: [b"{3}\n"]}) == set()
    made.close()
    found = contents(tmp_path)
    assert found.pop("events.jsonl") == b"{" + b"2" * 900 + b"}\n{3}\n"
    assert list(found.values()) == [b"{" + b"1" * 900 + b"}\n"]


def test_what_an_earlier_process_rotated_is_said_at_the_start(tmp_path: Path) -> None:
    made = LineFiles(Rotation(period="day"), fsync="never", is_json=True)
    assert made.open(tmp_path / "a") == {tmp_path / "a"}
    made.close()
    assert LineFiles(Rotation(), fsync="never", is_json=True).open(tmp_path / "b") == set()


def test_at_a_link_the_file_is_rotated_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path, real = tmp_path / "link", tmp_path / "disk" / "events.jsonl"
    path.symlink_to(real)
    made = rotated(path)
    made.append({path: [b"{" + b"1" * 900 + b"}\n"]})
    assert made.append({path: [b"{" + b"2" * 900 + b"}\n"]}) == {real}
    made.close()
    assert path.is_symlink()
    assert len(contents(tmp_path / "disk")) == 2


def test_a_rotation_that_fails_is_logged_once_and_lines_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    made, line = rotated(path), b"{" + b"1" * 900 + b"}\n"

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(module, "rotate", refused)
        for _ in range(4):
            made.append({path: [line]})
    assert [entry["event"] for entry in logs] == ["file_not_rotated"]
    assert path.read_bytes() == line * 4
    made.append({path: [line]})
    made.close()
    assert path.read_bytes() == line


def test_logrotate_and_our_own_rotation_get_along(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    made, line = rotated(path), b"{" + b"1" * 900 + b"}\n"
    made.append({path: [line]})
    path.rename(tmp_path / "events.jsonl.1")
    assert made.append({path: [line]}) == set()
    path.rename(tmp_path / "events.jsonl.2")
    made.reopen()
    assert path.read_bytes() == b""
    made.append({path: [line]})
    made.close()
    assert set(contents(tmp_path)) == {"events.jsonl", "events.jsonl.1", "events.jsonl.2"}


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("a.jsonl", "a.jsonl"),
        ("a.jsonl-20261123T100000Z", "a.jsonl-20261123T100000Z_"),
        ("a.jsonl-20261123T100000Z-7.gz", "a.jsonl-20261123T100000Z-7.gz_"),
        ("a.jsonl-20261123T100000Z.gz.part", "a.jsonl-20261123T100000Z.gz.part_"),
        (".a.jsonl.batch", ".a.jsonl.batch_"),
        ("a.batch", "a.batch"),
    ],
)
def test_no_event_can_name_a_file_that_rotation_would_remove(name: str, used: str) -> None:
    assert unreserved(Path("/logs") / name) == Path("/logs") / used
