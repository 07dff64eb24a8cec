"""What a killed process has left of a line is completed, so that whoever follows the file sees whole lines only."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rc_push.handlers import batch_note
from rc_push.handlers.batch_note import BatchNote, is_note, note_path
from rc_push.handlers.json_lines import JsonLinesFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def killed(path: Path, lines: bytes, written: int) -> None:
    """Leave what a process leaves that is killed when it has written so many bytes of *lines*."""
    file = JsonLinesFile(path)
    file.open()
    with path.open("ab") as other:
        file._note.write(path.stat(), lines)
        other.write(lines[:written])
    os.close(file._fd)
    os.close(file._note._fd)


def started(path: Path, **options: bool) -> list[dict]:
    """Open and close the file as the next process does; return what was logged."""
    file = JsonLinesFile(path, **options)
    with capture_logs() as logs:
        file.open()
    file.close()
    return logs


LINES = st.lists(
    st.binary(min_size=1, max_size=40).map(lambda raw: b"{" + raw.replace(b"\n", b"") + b"}\n"), min_size=1
)


@given(before=LINES, batch=LINES, data=st.data())
def test_whatever_byte_a_kill_stops_at_what_a_reader_has_got_only_gets_longer(before, batch, data):
    lines = b"".join(batch)
    written = data.draw(st.integers(0, len(lines)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_bytes(b"".join(before))
        killed(path, lines, written)
        read = path.read_bytes()
        logs = started(path)
        assert path.read_bytes().startswith(read)
        rest = lines[: lines.find(b"\n", max(0, written - 1)) + 1] if written else b""
        assert path.read_bytes() == b"".join(before) + rest
        assert [entry["event"] for entry in logs] == ([] if len(rest) == written else ["torn_line_completed"])


@pytest.mark.parametrize("is_json", [True, False])
def test_lines_of_any_format_are_completed(path: Path, is_json: bool) -> None:
    killed(path, b"one two\nthree\n", 10)
    assert path.read_bytes() == b"one two\nth"
    started(path, is_json=is_json)
    assert path.read_bytes() == b"one two\nthree\n"


def test_the_note_is_there_as_long_as_the_file_is_open(path: Path) -> None:
    file = JsonLinesFile(path)
    file.open()
    file.append(b"{1}\n")
    assert note_path(path).stat().st_mode & 0o777 == 0o600
    assert is_note(note_path(path))
    file.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["events.jsonl"]


def test_a_batch_that_was_not_begun_is_not_written_by_the_repair(path: Path) -> None:
    killed(path, b"{1}\n{2}\n", 0)
    assert started(path) == []
    assert path.read_bytes() == b""


def _overwrite(path: Path, at: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(what)


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"}\n{3}\n{4")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: note_path(path).unlink(), id="no note"),
        pytest.param(lambda path: note_path(path).write_bytes(b""), id="an empty one"),
        pytest.param(lambda path: note_path(path).write_bytes(b"x" * 200), id="garbage"),
        pytest.param(lambda path: os.truncate(note_path(path), 66), id="lines missing"),
        pytest.param(lambda path: _overwrite(note_path(path), 64, b"X"), id="other lines than noted"),
        pytest.param(lambda path: _overwrite(path, 1, b"X"), id="other lines in the file"),
        pytest.param(_replace, id="another file"),
        pytest.param(_longer, id="a later batch"),
    ],
)
def test_where_the_note_does_not_fit_the_torn_line_is_cut_away(path: Path, spoil) -> None:
    killed(path, b"{1}\n{22}\n", 6)
    spoil(path)
    whole = path.read_bytes().rpartition(b"\n")[0] + b"\n"
    assert [entry["event"] for entry in started(path)] == ["torn_line_removed"]
    assert path.read_bytes() == whole


def test_a_torn_text_without_a_note_is_ended_not_cut_away(path: Path) -> None:
    path.write_bytes(b"somebody's\nwords")
    assert [entry["event"] for entry in started(path, is_json=False)] == ["torn_line_ended"]
    assert path.read_bytes() == b"somebody's\nwords\n"


def test_zeros_at_the_end_of_texts_are_removed(path: Path) -> None:
    path.write_bytes(b"words\n" + bytes(5000))
    assert [entry["event"] for entry in started(path, is_json=False)] == ["torn_line_removed"]
    assert path.read_bytes() == b"words\n"


def test_on_a_full_disk_the_line_that_cannot_be_completed_is_cut_away(path: Path, monkeypatch) -> None:
    killed(path, b"{1}\n{22}\n", 6)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        logs = started(path)
    assert [entry["event"] for entry in logs] == ["torn_line_not_completed", "torn_line_removed"]
    assert path.read_bytes() == b"{1}\n"


@pytest.mark.parametrize("in_the_way", ["a folder", "a link", "a FIFO"])
def test_where_there_can_be_no_note_lines_are_written_without(path: Path, in_the_way: str) -> None:
    make = {"a folder": Path.mkdir, "a link": lambda note: note.symlink_to(path), "a FIFO": os.mkfifo}
    make[in_the_way](note_path(path))
    file = JsonLinesFile(path)
    with capture_logs() as logs:
        file.open()
        file.append(b"{1}\n")
    file.close()
    assert [entry["event"] for entry in logs] == ["batch_note_not_kept"]
    assert path.read_bytes() == b"{1}\n"
    assert note_path(path).is_symlink() or note_path(path).exists()


def test_a_note_that_cannot_be_written_is_given_up_and_removed(path: Path, monkeypatch) -> None:
    file = JsonLinesFile(path)
    file.open()

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "pwrite", broken)
        file.append(b"{1}\n")
        file.append(b"{2}\n")
    assert [entry["event"] for entry in logs] == ["batch_note_not_kept"]
    assert [entry.name for entry in path.parent.iterdir()] == ["events.jsonl"]
    file.close()
    assert path.read_bytes() == b"{1}\n{2}\n"


def test_a_huge_batch_leaves_no_huge_note(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(batch_note, "KEEP_MAX_BYTES", 1000)
    file = JsonLinesFile(path)
    file.open()
    file.append(b"{" + b"x" * 5000 + b"}\n")
    assert note_path(path).stat().st_size > 5000
    file.append(b"{1}\n")
    assert note_path(path).stat().st_size < 100
    file.close()


def test_a_note_that_was_never_opened_can_be_closed(path: Path) -> None:
    BatchNote(path).close()
    BatchNote(path).clear()
    BatchNote(path).write(path.parent.stat(), b"{1}\n")
    assert BatchNote(path).rest_of_line(0) == b""


def test_a_note_that_cannot_be_removed_says_nothing_and_holds_up_nobody(path: Path, monkeypatch) -> None:
    file = JsonLinesFile(path)
    file.open()
    file.append(b"{1}\n")

    def closed_folder(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", closed_folder)
        file.reopen()
        file.close()
    assert note_path(path).read_bytes() == b""
    file.append(b"{2}\n")  # its lock was let go of
    file.close()
    assert path.read_bytes() == b"{1}\n{2}\n"
    assert not note_path(path).exists()
