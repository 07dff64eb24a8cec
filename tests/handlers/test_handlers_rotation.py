"""A file ends at a size or a time; old ones are compressed, and the oldest removed."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rc_push.handlers import rotation
from rc_push.handlers.rotation import ROTATED, Rotation, rotate

AT = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def old(path: Path, moment: str, content: bytes = b"{old}\n") -> Path:
    made = path.with_name(f"{path.name}-{moment}")
    made.write_bytes(gzip.compress(content) if made.suffix == ".gz" else content)
    return made


def test_without_a_rule_nothing_is_rotated():
    assert not Rotation()
    assert Rotation(max_bytes=1024)
    assert Rotation(period="day")


@pytest.mark.parametrize(("size", "more", "due"), [(900, 124, False), (900, 125, True), (0, 5000, False)])
def test_a_file_ends_before_it_is_larger_than_the_rule_says(path: Path, size: int, more: int, due: bool) -> None:
    path.write_bytes(b"x" * size)
    assert Rotation(max_bytes=1024).is_due(path, more, AT) is due


@pytest.mark.parametrize(
    ("period", "written", "due"),
    [
        ("day", "2026-11-23T00:00:00", False),
        ("day", "2026-11-22T23:59:59", True),
        ("day", "2026-11-24T10:00:00", False),  # a clock that was set back
        ("hour", "2026-11-23T10:59:59", False),
        ("hour", "2026-11-23T09:59:59", True),
    ],
)
def test_a_file_ends_when_a_new_period_has_begun_since_it_was_written(path: Path, period, written, due) -> None:
    path.write_bytes(b"{}\n")
    at = datetime.fromisoformat(written).replace(tzinfo=UTC).timestamp()
    os.utime(path, (at, at))
    assert Rotation(period=period).is_due(path, 1, AT) is due


def test_what_is_not_there_or_no_file_never_ends(path: Path) -> None:
    assert not Rotation(max_bytes=1024).is_due(path, 5000, AT)
    os.mkfifo(path)
    assert not Rotation(max_bytes=1024, period="hour").is_due(path, 5000, AT)


def test_a_rotated_file_is_called_after_the_moment_and_never_replaces_another(path: Path) -> None:
    expected = []
    for number, name in enumerate(["-20261123T100000Z", "-20261123T100000Z-2", "-20261123T100000Z-3"]):
        path.write_bytes(b"%d" % number)
        rotate(path, AT)
        expected.append(path.with_name(path.name + name))
        assert expected[-1].read_bytes() == b"%d" % number
    expected[0].rename(f"{expected[0]}.gz")
    path.write_bytes(b"3")
    rotate(path, AT)
    assert path.with_name(f"{path.name}-20261123T100000Z-4").read_bytes() == b"3"
    assert all(ROTATED.search(name) for name in names(path))


def test_old_files_are_compressed_with_their_mode_and_time(path: Path) -> None:
    plain = old(path, "20261123T090000Z", b"{1}\n" * 1000)
    plain.chmod(0o600)
    os.utime(plain, (1_000_000_000, 1_000_000_000))
    Rotation(max_bytes=1024).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z.gz"]
    packed = plain.with_name(plain.name + ".gz")
    assert gzip.decompress(packed.read_bytes()) == b"{1}\n" * 1000
    assert packed.stat().st_size < 200
    assert (packed.stat().st_mode & 0o777, packed.stat().st_mtime) == (0o600, 1_000_000_000)


def test_what_another_is_compressing_is_left_to_it(path: Path) -> None:
    plain = old(path, "20261123T090000Z", b"{1}\n")
    part = plain.with_name(f"{plain.name}.gz.part")
    part.write_bytes(b"begun")
    with plain.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        Rotation(max_bytes=1024).tidy(path)
        assert (plain.read_bytes(), part.read_bytes()) == (b"{1}\n", b"begun")
    Rotation(max_bytes=1024).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z.gz"]


def test_they_stay_as_they_are_where_nothing_is_to_be_compressed(path: Path) -> None:
    old(path, "20261123T090000Z")
    Rotation(max_bytes=1024, compress=False).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z"]


def test_the_oldest_are_removed_and_nothing_else(path: Path) -> None:
    for moment in ("20261121T000000Z.gz", "20261122T000000Z", "20261122T000000Z-2", "20261122T000000Z-10.gz"):
        old(path, moment)
    others = ["events.jsonl", "events.jsonl-20261120", "events.jsonl.1", "events.jsonl-20261120T000000Z.txt"]
    others += ["other.jsonl-20261120T000000Z", "events.jsonl2-20261120T000000Z"]
    for name in others:
        path.with_name(name).touch()
    Rotation(max_bytes=1024, keep=2).tidy(path)
    kept = ["events.jsonl-20261122T000000Z-10.gz", "events.jsonl-20261122T000000Z-2.gz"]
    assert names(path) == sorted([*others, *kept])


def test_what_a_crash_left_of_compressing_is_begun_anew(path: Path) -> None:
    plain = old(path, "20261123T090000Z", b"{1}\n")
    plain.with_name(plain.name + ".gz.part").write_bytes(b"half")
    Rotation(max_bytes=1024).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z.gz"]
    plain.write_bytes(b"{1}\n")  # it fell between the new name and the removal
    Rotation(max_bytes=1024).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z.gz"]
    assert gzip.decompress(plain.with_name(plain.name + ".gz").read_bytes()) == b"{1}\n"


def test_the_compressed_file_is_on_the_disk_by_its_name_before_the_other_goes(path: Path, monkeypatch) -> None:
    made, seen = old(path, "20261123T090000Z"), []

    def sync(folder: Path) -> None:
        seen.append((folder, made.exists(), made.with_name(f"{made.name}.gz").exists()))

    monkeypatch.setattr(rotation, "sync_folder_if_possible", sync)
    Rotation(1024).tidy(path)
    assert seen == [(path.parent, True, True)]
    assert not made.exists()


def test_a_disk_that_is_full_keeps_the_file_and_is_logged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(path, "20261123T090000Z")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(rotation.shutil, "copyfileobj", full)
        Rotation(max_bytes=1024).tidy(path)
    assert [entry["event"] for entry in logs] == ["rotated_files_not_tidied"]
    assert old(path, "20261123T090000Z").exists()
    Rotation(max_bytes=1024).tidy(path)
    assert names(path) == ["events.jsonl-20261123T090000Z.gz"]


def test_of_a_path_made_of_an_event_the_template_is_told(path: Path) -> None:
    path.with_name(f"{path.name}-20261123T090000Z.gz.part").mkdir()
    with capture_logs() as logs:
        Rotation(max_bytes=1024).tidy(path, "/logs/{body.text}")
        Rotation(max_bytes=1024).tidy(path)
    assert [entry["path"] for entry in logs] == ["/logs/{body.text}", str(path)]
    assert path.name not in str(logs[0])
    assert path.name in logs[1]["error"]


def test_a_link_in_the_place_of_a_part_is_not_followed(path: Path, tmp_path: Path) -> None:
    plain, target = old(path, "20261123T090000Z"), tmp_path / "target"
    target.write_bytes(b"precious")
    plain.with_name(plain.name + ".gz.part").symlink_to(target)
    Rotation(max_bytes=1024).tidy(path)
    assert target.read_bytes() == b"precious"


def test_a_name_that_became_free_is_not_given_again(path: Path) -> None:
    for number in range(5):
        path.write_bytes(b"%d" % number)
        rotate(path, AT - timedelta(hours=number % 2))  # a clock that is set back every other time
        Rotation(max_bytes=1024, keep=2, compress=False).tidy(path)
    assert sorted(entry.read_bytes() for entry in path.parent.iterdir()) == [b"3", b"4"]


def test_moments_sort_as_their_names_do(path: Path) -> None:
    for days in range(5):
        path.write_bytes(b"%d" % days)
        rotate(path, AT + timedelta(days=days))
    Rotation(max_bytes=1024, keep=2, compress=False).tidy(path)
    assert [entry.read_bytes() for entry in sorted(path.parent.iterdir())] == [b"3", b"4"]
