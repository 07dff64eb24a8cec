"""Lines stand whole in the file, whatever happens: crashes, rotation, a full disk, odd kinds of files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rc_push.errors import HandlerError
from rc_push.handlers import json_lines, stalling
from rc_push.handlers.json_lines import BLOCK_BYTES, FILE_MODE, LINE_MAX_BYTES, JsonLinesFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def file(path: Path) -> Iterator[JsonLinesFile]:
    opened = JsonLinesFile(path)
    opened.open()
    yield opened
    opened.close()


def written(path: Path, *batches: bytes) -> bytes:
    """Return what is in *path* after a start, the *batches* and a stop."""
    file = JsonLinesFile(path)
    file.open()
    for batch in batches:
        file.append(batch)
    file.close()
    return path.read_bytes()


def failing(real: Callable[..., Any], code: int, *, after: int = 0) -> Callable[..., Any]:
    """Return *real* that fails with *code* once it has been called *after* times."""
    calls = iter(range(after))

    def call(*args: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(code, os.strerror(code))
        return real(*args)

    return call


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ------------------------------------------------------------------------------------------------------------ torn tail


LINES = st.lists(
    st.binary(max_size=40).map(lambda text: b"{" + text.replace(b"\n", b"") + b"}\n"), min_size=1, max_size=6
)


@given(lines=LINES, data=st.data())
def test_whatever_byte_a_crash_stops_at_only_whole_lines_remain(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_bytes(whole[:cut])
        with capture_logs() as logs:
            after = written(path, b"{next}\n")
    kept = [line for end, line in zip(_ends(lines), lines, strict=True) if end <= cut]
    if _is_json(torn := whole[sum(map(len, kept)) : cut]):  # the newline alone is missing
        assert after == b"".join(kept) + torn + b"\n{next}\n"
        return
    assert after == b"".join(kept) + b"{next}\n"
    removed = cut - sum(map(len, kept))
    assert [entry["removed_bytes"] for entry in logs] == ([removed] if removed else [])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _ends(lines: list[bytes]) -> list[int]:
    return [sum(map(len, lines[: n + 1])) for n in range(len(lines))]


@pytest.mark.parametrize("torn_bytes", [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("before", [b"", b"{}\n"])
def test_a_torn_line_longer_than_a_block_is_removed(path: Path, before: bytes, torn_bytes: int) -> None:
    path.write_bytes(before + b"{" * torn_bytes)
    assert written(path) == before


def test_the_longest_line_that_can_be_ours_is_removed(path: Path) -> None:
    path.write_bytes(b"{}\n{" + b"x" * (LINE_MAX_BYTES - 1))
    assert written(path) == b"{}\n"


@pytest.mark.parametrize("before", [b"", b"{}\n"])
@pytest.mark.parametrize("line", [b"{}", b'{"a": 1}', b'{"text": "' + b"x" * 2 * BLOCK_BYTES + b'"}'])
def test_a_line_of_which_the_newline_alone_is_missing_stays(path: Path, before: bytes, line: bytes) -> None:
    path.write_bytes(before + line)
    with capture_logs() as logs:
        assert written(path, b'{"b":2}\n') == before + line + b'\n{"b":2}\n'
    assert [entry["event"] for entry in logs] == ["torn_line_ended"]


def test_one_for_whose_newline_there_is_no_room_is_cut_away_and_comes_again(path: Path) -> None:
    line = b'{"n":"%b"}' % (b"x" * 500_000)  # longer than all else that is written
    path.write_bytes(b"%b\n%b" % (line, line))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    file = JsonLinesFile(path)
    try:
        file.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == line + b"\n"
    file.append(line + b"\n")
    file.close()
    assert path.read_bytes() == (line + b"\n") * 2


@pytest.mark.parametrize("line", [b'{"a": 1', b'{"a": 1}{', b'{"a": "\xff"}', b'{"a":' + b"[" * 5000])
def test_one_of_which_more_is_missing_does_not(path: Path, line: bytes) -> None:
    path.write_bytes(b"{}\n" + line)
    assert written(path) == b"{}\n"


def test_zeros_that_a_power_cut_left_at_the_end_are_removed(path: Path) -> None:
    path.write_bytes(b"{}\n" + bytes(5000))
    assert written(path) == b"{}\n"


@pytest.mark.parametrize(
    "foreign", [b"password file", b"{}\nroot:x:0", b"{" + b"x" * (LINE_MAX_BYTES + 2 * BLOCK_BYTES)]
)
def test_a_file_of_another_format_is_left_alone(path: Path, foreign: bytes) -> None:
    path.write_bytes(foreign)
    with pytest.raises(HandlerError, match="left alone; move it away"):
        JsonLinesFile(path).open()
    assert path.read_bytes() == foreign


def test_a_file_with_whole_lines_is_continued(path: Path) -> None:
    path.write_bytes(b"{old}\n")
    assert written(path, b"{new}\n") == b"{old}\n{new}\n"


# ------------------------------------------------------------------------------------------------------------- rotation


def test_a_renamed_file_is_left_and_a_new_one_begun(file: JsonLinesFile, path: Path) -> None:
    file.append(b"{1}\n")
    old = path.rename(path.with_suffix(".1"))
    file.append(b"{2}\n")
    assert (old.read_bytes(), path.read_bytes()) == (b"{1}\n", b"{2}\n")


def test_a_file_that_the_rotation_created_is_used(file: JsonLinesFile, path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.touch(mode=0o600)
    file.append(b"{1}\n")
    assert path.read_bytes() == b"{1}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_deleted_file_is_created_again(file: JsonLinesFile, path: Path) -> None:
    file.append(b"{1}\n")
    path.unlink()
    file.append(b"{2}\n")
    assert path.read_bytes() == b"{2}\n"


def test_an_emptied_file_is_continued_from_its_beginning(file: JsonLinesFile, path: Path) -> None:
    file.append(b"{1}\n")
    os.truncate(path, 0)
    file.append(b"{2}\n")
    assert path.read_bytes() == b"{2}\n"


def test_without_a_rotation_the_file_stays_open(
    file: JsonLinesFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", failing(os.open, errno.EMFILE))
    file.append(b"{1}\n")
    assert path.read_bytes() == b"{1}\n"


def test_a_rotation_leaks_no_descriptor(file: JsonLinesFile, path: Path) -> None:
    file.append(b"{1}\n")
    before = open_descriptors()
    for _ in range(5):
        path.unlink()
        file.append(b"{2}\n")
        file.reopen()
    assert open_descriptors() == before


def test_a_directory_that_went_away_fails_until_it_is_back(path: Path) -> None:
    folder = path.parent / "logs"
    folder.mkdir()
    file = JsonLinesFile(folder / "events.jsonl")
    file.open()
    folder.rename(path.parent / "old")
    with pytest.raises(FileNotFoundError):
        file.append(b"{1}\n")
    folder.mkdir()
    file.append(b"{1}\n")
    file.close()
    assert (folder / "events.jsonl").read_bytes() == b"{1}\n"


# ----------------------------------------------------------------------------------------------------- writes that fail


@given(sizes=st.lists(st.integers(1, 5), min_size=1))
def test_short_writes_are_carried_on(sizes: list[int]) -> None:
    real_write, turns = os.write, iter(sizes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "events.jsonl"
        patch.setattr(os, "write", lambda fd, data: real_write(fd, data[: next(turns, len(data))]))
        assert written(path, b"{first}\n{second}\n") == b"{first}\n{second}\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failed_write_is_undone_and_the_same_batch_can_be_tried_again(
    file: JsonLinesFile, path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file.append(b"{1}\n")
    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(lambda fd, data: real_write(fd, data[:6]), code, after=1))
        with pytest.raises(OSError, match=os.strerror(code)):
            file.append(b"{2}\n{3}\n")
    assert path.read_bytes() == b"{1}\n"
    file.append(b"{2}\n{3}\n")
    assert path.read_bytes() == b"{1}\n{2}\n{3}\n"


def test_a_failed_flush_is_no_success(file: JsonLinesFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync, errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.append(b"{1}\n")
    file.append(b"{1}\n")
    assert path.read_bytes() == b"{1}\n"


def test_what_cannot_be_undone_at_once_is_repaired_before_the_next_write(
    file: JsonLinesFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "write", failing(lambda fd, data: real_write(fd, data[:6]), errno.EIO, after=1))
        patch.setattr(os, "ftruncate", failing(os.ftruncate, errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.append(b"{1}\n{2}\n")
    assert [entry["event"] for entry in logs] == ["write_not_undone"]
    assert path.read_bytes() == b"{1}\n{2"
    file.append(b"{1}\n{2}\n")
    assert path.read_bytes() == b"{1}\n{1}\n{2}\n"


def test_undoing_does_not_lengthen_a_file_that_was_emptied_meanwhile(
    file: JsonLinesFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.append(b"{1}\n")

    def empty_and_fail(*_: object) -> int:
        os.truncate(path, 0)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", empty_and_fail)
        with pytest.raises(OSError, match="full"):
            file.append(b"{2}\n")
    assert path.read_bytes() == b""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"mounting a small disk is not permitted here: {exc}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_whole_lines_and_takes_more_once_there_is_room(small_disk: Path) -> None:
    path, ballast = small_disk / "events.jsonl", small_disk / "ballast"
    ballast.write_bytes(bytes(32 << 10))
    file = JsonLinesFile(path)
    file.open()
    batch = (b"{" + b"x" * 997 + b"}\n") * 20
    file.append(batch)
    with pytest.raises(OSError, match="No space left") as caught:
        file.append(batch)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == batch
    ballast.unlink()
    file.append(batch)
    file.close()
    assert path.read_bytes() == batch * 2


# ------------------------------------------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(("umask", "mode"), [(0o022, FILE_MODE), (0, FILE_MODE), (0o077, 0o600)])
def test_a_new_file_can_be_read_by_the_group_at_most(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        written(path, b"{1}\n")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode == mode & 0o640


def test_the_name_of_a_new_file_is_flushed_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    written(path)
    assert flushed[-1] == str(path.parent)
    above = list(map(str, path.parent.parents))
    assert flushed[:-1] == above[: len(flushed) - 1] != []  # as far as we could have created them


def test_a_directory_that_cannot_be_flushed_is_logged_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JsonLinesFile(path)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "fsync", failing(os.fsync, errno.EINVAL))
        file.open()
    file.append(b"{1}\n")
    file.close()
    assert [entry["event"] for entry in logs] == ["directory_not_flushed"]
    assert path.read_bytes() == b"{1}\n"


def test_a_second_writer_is_refused_and_the_file_is_free_after_the_first(file: JsonLinesFile, path: Path) -> None:
    with pytest.raises(HandlerError, match="written by another handler or daemon"):
        JsonLinesFile(path).open()
    file.close()
    assert written(path, b"{2}\n") == b"{2}\n"


def test_a_file_system_without_locks_is_logged_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines.fcntl, "flock", failing(json_lines.fcntl.flock, errno.ENOLCK))
    with capture_logs() as logs:
        assert written(path, b"{1}\n") == b"{1}\n"
    assert [entry["event"] for entry in logs] == ["file_not_locked"]


def test_a_symbolic_link_is_followed_and_its_change_noticed(path: Path) -> None:
    first, second = path.with_name("first"), path.with_name("second")
    path.symlink_to(first)
    file = JsonLinesFile(path)
    file.open()
    file.append(b"{1}\n")
    path.unlink()
    path.symlink_to(second)
    file.append(b"{2}\n")
    file.close()
    assert (first.read_bytes(), second.read_bytes()) == (b"{1}\n", b"{2}\n")


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(HandlerError, match="name a file in it"):
        JsonLinesFile(path).open()


def test_a_socket_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(HandlerError, match="a socket cannot be opened"):
            JsonLinesFile(path).open()


def test_a_link_to_itself_is_refused(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(HandlerError, match="Too many levels of symbolic links; name another path"):
        JsonLinesFile(path).open()


def test_a_permission_error_names_the_remedy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(os.open, errno.EACCES))
    with pytest.raises(HandlerError, match="let the user that rc-push runs as read and write it"):
        JsonLinesFile(path).open()


def test_a_failed_opening_leaks_no_descriptor(path: Path) -> None:
    path.write_bytes(b"foreign")
    before = open_descriptors()
    with pytest.raises(HandlerError):
        JsonLinesFile(path).open()
    assert open_descriptors() == before


def test_a_device_is_written_to_and_neither_flushed_nor_repaired() -> None:
    file = JsonLinesFile(Path("/dev/null"))
    file.open()
    file.append(b"{1}\n")
    file.close()


def test_a_fifo_gets_its_lines(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    written_file = JsonLinesFile(path)
    written_file.open()
    written_file.append(b"{1}\n")
    written_file.close()
    assert os.read(reader, 100) == b"{1}\n"
    os.close(reader)


def test_a_fifo_without_a_reader_stops_no_start_and_is_used_once_it_has_one(path: Path) -> None:
    os.mkfifo(path)
    file = JsonLinesFile(path)
    with capture_logs() as logs:
        file.open()
    assert [entry["event"] for entry in logs] == ["fifo_without_reader"]
    with pytest.raises(OSError, match="No such device or address"):
        file.append(b"{1}\n")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file.append(b"{1}\n")
    file.close()
    assert os.read(reader, 100) == b"{1}\n"
    os.close(reader)


@pytest.fixture
def fifo(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[JsonLinesFile, FileIO]]:
    """Give a FIFO whose writer waits for no reader that stands still, and its reader."""
    monkeypatch.setattr(stalling, "STALL_MAX_S", 0.0)
    os.mkfifo(path)
    with _reader_of(path) as reader:
        file = JsonLinesFile(path)
        file.open()
        yield file, reader
        file.close()


def _reader_of(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def test_a_fifo_whose_reader_stands_still_fails_and_the_half_line_is_completed(
    fifo: tuple[JsonLinesFile, FileIO],
) -> None:
    file, reader = fifo
    line = b"{" + b"x" * (1 << 18) + b"}\n"
    got = b""
    for batch in (line, b"{2}\n"):
        with pytest.raises(TimeoutError, match="reader took nothing"):
            file.append(batch)
        got += _drain(reader)
        with pytest.raises(BlockingIOError):  # and not the end
            os.read(reader.fileno(), 1)
    assert line.startswith(got)
    while len(got) < len(line) + 4:
        with contextlib.suppress(TimeoutError):
            file.append(b"{2}\n")
        got += _drain(reader)
    file.append(b"{3}\n")
    file.close()
    assert got + _drain(reader) == line + b"{2}\n{3}\n"


def test_a_fifo_whose_reader_stands_still_between_lines_gets_nothing_in_between(
    fifo: tuple[JsonLinesFile, FileIO],
) -> None:
    file, reader = fifo
    line = b"{" + b"x" * 4093 + b"}\n"  # a page: what is written is whole lines
    with pytest.raises(TimeoutError):
        file.append(line * 100)
    got = _drain(reader)
    assert got == line * got.count(b"\n")
    file.append(b"{2}\n")
    assert _drain(reader) == b"{2}\n"


def test_a_fifo_that_takes_nothing_owes_what_it_owed(fifo: tuple[JsonLinesFile, FileIO]) -> None:
    file, reader = fifo
    line = b"{" + b"x" * 70_000 + b"}\n"
    for _ in range(3):
        with pytest.raises(TimeoutError):
            file.append(line)
    got = _drain(reader)
    file.append(b"{2}\n")
    file.close()
    assert got + _drain(reader) == line + b"{2}\n"


@pytest.mark.parametrize("how", ["writing", "opening anew"])
def test_a_reader_that_comes_after_one_who_left_in_a_line_begins_with_a_whole_one(
    path: Path, fifo: tuple[JsonLinesFile, FileIO], how: str
) -> None:
    file, first = fifo
    with pytest.raises(TimeoutError):
        file.append(b"{" + b"x" * (1 << 20) + b"}\n")
    os.read(first.fileno(), 100)
    first.close()
    if how == "writing":
        with pytest.raises(BrokenPipeError):
            file.append(b"{1}\n")
    else:
        with capture_logs() as logs:
            file.reopen()
        assert [entry["event"] for entry in logs] == ["fifo_without_reader"]
    with _reader_of(path) as second:
        file.append(b"{1}\n")
        file.close()
        assert _drain(second) == b"{1}\n"


def test_a_line_that_is_owed_is_completed_when_the_fifo_is_closed(fifo: tuple[JsonLinesFile, FileIO]) -> None:
    file, reader = fifo
    line = b"{" + b"x" * 70_000 + b"}\n"
    with pytest.raises(TimeoutError):
        file.append(line)
    got = _drain(reader)
    file.close()  # a reload: the next one knows nothing of it
    assert got + _drain(reader) == line


def test_a_fifo_whose_reader_is_slower_gets_every_byte(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    file, got = JsonLinesFile(path), bytearray()
    file.open()
    line = b"{" + b"x" * (1 << 20) + b"}\n"

    def read() -> None:
        while len(got) < len(line):
            got.extend(os.read(reader, 5000))

    reading = threading.Thread(target=read)
    reading.start()
    file.append(line)
    reading.join()
    file.close()
    os.close(reader)
    assert got == line


def _drain(reader: FileIO) -> bytes:
    data = b""
    while select.select([reader], [], [], 0)[0] and (block := os.read(reader.fileno(), 1 << 16)):
        data += block
    return data


def test_a_fifo_whose_reader_left_fails_and_the_next_reader_gets_the_lines(path: Path) -> None:
    os.mkfifo(path)
    first = _reader_of(path)
    file = JsonLinesFile(path)
    file.open()
    first.close()
    with pytest.raises(BrokenPipeError):
        file.append(b"{1}\n")
    second = _reader_of(path)
    file.append(b"{1}\n")
    file.close()
    assert _drain(second) == b"{1}\n"
    second.close()


def test_on_a_disk_without_room_nothing_is_begun_that_a_reader_could_see(small_disk: Path) -> None:
    path = small_disk / "events.jsonl"
    file = JsonLinesFile(path)
    file.open()
    file.append(b"{1}\n")
    with pytest.raises(OSError, match="No space left") as caught:
        file.append(b"{" + b"x" * (1 << 20) + b"}\n")
    assert caught.value.errno == errno.ENOSPC
    file.close()
    assert path.stat().st_blocks * 512 <= 4096, "it was longer for a moment"
    assert path.read_bytes() == b"{1}\n"


def test_a_file_system_that_does_not_tell_its_room_is_used(file: JsonLinesFile, path: Path, monkeypatch) -> None:
    no_idea = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: no_idea)
    file.append(b"{1}\n")
    assert path.read_bytes() == b"{1}\n"
