"""Is the model of a disk one? What was flushed stays, what was not may go, and nothing else appears."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from power.disk import SECTOR, All, ByChance, ContentOnly, Disk, Fate, Image, InOrder, NamesOnly
from power.recording import Record

ROOT = Path("/disk")
NEW = os.O_RDWR | os.O_CREAT
EVERYTHING = range(400)


class Doing:
    """A disk, and what is done to it in words."""

    def __init__(self, **options):
        self.disk = Disk(ROOT, **options)
        self._handles = 0

    def do(self, op, handle=0, number=0, one=b"", two=b""):
        self.disk.do(Record(op, handle, number, one, two))

    def open(self, name, flags=NEW):
        self._handles += 1
        self.do("o", self._handles, flags, f"{ROOT}/{name}".rstrip("/").encode())
        return self._handles

    def rename(self, old, new):
        self.do("r", one=f"{ROOT}/{old}".encode(), two=f"{ROOT}/{new}".encode())

    def unlink(self, name):
        self.do("u", one=f"{ROOT}/{name}".encode())

    def write(self, handle, at, data):
        self.do("w", handle, at, data)

    def flush(self, *handles):
        for handle in handles:
            self.do("s", handle)

    def left(self, fate):
        return self.disk.after(fate).entries

    def by_chance(self):
        """Return all that chance may leave, many times."""
        pending = self.disk.pending()
        return [self.left(ByChance(random.Random(seed), pending, ordered_names=bool(seed % 2))) for seed in EVERYTHING]


@pytest.fixture
def doing():
    return Doing()


def test_what_was_flushed_survives_everything(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.write(file, 0, b"x" * 1000)
    doing.flush(file, folder)
    assert doing.disk.pending() == []
    fates = (Fate(), All(), NamesOnly(), ContentOnly(), InOrder(0, random.Random(1)))
    assert all(doing.left(fate) == {"a": b"x" * 1000} for fate in fates)
    assert all(left == {"a": b"x" * 1000} for left in doing.by_chance())


def test_a_file_whose_name_was_not_flushed_may_be_gone_with_all_that_was(doing):
    file = doing.open("a")
    doing.write(file, 0, b"x")
    doing.flush(file)
    assert doing.left(Fate()) == doing.left(ContentOnly()) == {}
    assert doing.left(NamesOnly()) == {"a": b"x"}


def test_of_a_write_each_sector_survives_by_itself(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.write(file, 0, b"o" * 3 * SECTOR)
    doing.flush(file, folder)
    doing.write(file, 100, b"n" * 2 * SECTOR)
    seen = {left["a"] for left in doing.by_chance()}
    first, second, third = ((b"o" * SECTOR, part) for part in _parts(b"o" * 100 + b"n" * 1024 + b"o" * 412))
    assert seen == {a + b + c for a in first for b in second for c in third}


def _parts(content):
    return [content[at : at + SECTOR] for at in range(0, len(content), SECTOR)]


def test_a_sector_that_was_written_twice_is_never_new_at_one_end_and_old_at_the_other(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.write(file, 0, b"o" * SECTOR)
    doing.flush(file, folder)
    doing.write(file, 0, b"1" * 10)
    doing.write(file, 500, b"2" * 12)
    seen = {(left["a"][0:1], left["a"][-1:]) for left in doing.by_chance()}
    assert seen == {(b"o", b"o"), (b"1", b"o"), (b"1", b"2")}


def test_a_file_is_made_shorter_wholly_or_not_at_all(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.write(file, 0, b"o" * 4 * SECTOR)
    doing.flush(file, folder)
    doing.do("t", file, SECTOR)
    assert {left["a"] for left in doing.by_chance()} == {b"o" * 4 * SECTOR, b"o" * SECTOR}
    doing.write(file, SECTOR, b"n" * SECTOR)
    seen = {left["a"] for left in doing.by_chance()}
    assert seen == {b"o" * n for n in (4 * SECTOR, SECTOR)} | {b"o" * SECTOR + c * SECTOR for c in (b"n", b"\0")}


def test_what_was_written_behind_the_end_may_be_there_as_zeros(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.flush(folder)
    doing.write(file, 0, b"n" * 2 * SECTOR)
    sectors = (b"n" * SECTOR, b"\0" * SECTOR)
    assert {left["a"] for left in doing.by_chance()} == {b"", *(a + b for a in sectors for b in sectors)}


def test_a_direct_write_is_not_there_before_it_is_flushed(doing):
    file, folder = doing.open("a", NEW | os.O_DIRECT), doing.open("")
    doing.flush(folder)
    doing.write(file, 0, b"n" * 2 * SECTOR)
    sectors = (b"n" * SECTOR, b"\0" * SECTOR)
    assert {left["a"] for left in doing.by_chance()} == {b"", *(a + b for a in sectors for b in sectors)}
    doing.flush(file)
    assert doing.left(Fate()) == {"a": b"n" * 2 * SECTOR}


def test_a_rename_happens_at_once(doing):
    doing.flush(doing.open("a"), doing.open("b"), doing.open(""))
    doing.rename("a", "b")
    assert doing.left(Fate()).keys() == {"a", "b"}
    assert doing.left(All()).keys() == {"b"}
    assert {tuple(left) for left in doing.by_chance()} == {("a", "b"), ("b",)}


def test_names_may_change_in_any_order_and_links_share_their_content(doing):
    file = doing.open("a")
    doing.write(file, 0, b"x")
    doing.flush(file, doing.open(""))
    doing.do("l", one=b"/disk/a", two=b"/disk/b")
    doing.unlink("a")
    assert {tuple(left) for left in doing.by_chance()} == {("a",), ("a", "b"), ("b",), ()}
    assert doing.left(All()) == {"b": b"x"}


def test_a_name_is_given_again_only_once_it_was_given_up(doing):
    file = doing.open("a")
    doing.write(file, 0, b"old")
    doing.flush(file, doing.open(""))
    doing.rename("a", "b")
    doing.open("a")
    seen = {tuple(left.items()) for left in doing.by_chance()}
    assert seen == {(("a", b"old"),), (("b", b"old"),), (("a", b""), ("b", b"old"))}


def test_in_order_means_all_before_and_a_torn_write(doing):
    file, folder = doing.open("a"), doing.open("")
    doing.flush(folder)
    doing.write(file, 0, b"1" * 2 * SECTOR)
    at = doing.disk.moment
    doing.write(file, 2 * SECTOR, b"2")
    seen = {doing.left(InOrder(at, random.Random(seed)))["a"] for seed in EVERYTHING}
    sectors = (b"1" * SECTOR, b"\0" * SECTOR)
    assert seen == {b"", *(a + b for a in sectors for b in sectors)}
    assert doing.left(InOrder(at + 1, random.Random(1)))["a"][: 2 * SECTOR] == b"1" * 2 * SECTOR


def test_a_disk_that_lies_has_flushed_nothing():
    doing = Doing(lies_about=lambda path: path == "a")
    file, folder = doing.open("a"), doing.open("")
    doing.write(file, 0, b"x")
    doing.flush(file, folder)
    assert doing.left(Fate()) == {"a": b""}


def test_an_image_is_written_as_it_was_read(tmp_path):
    folder, copy = tmp_path / "one", tmp_path / "two"
    (folder / "in").mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 700)
    os.link(folder / "a", folder / "in" / "b")
    (folder / "a-shm").write_bytes(b"y")
    image = Image.of(folder)
    assert image.entries == {"a": b"x" * 700, "in": None, "in/b": b"x" * 700}
    copy.mkdir()
    image.write(copy)
    assert Image.of(copy).digest() == image.digest()
    assert Disk(ROOT, image).after(Fate()).entries == image.entries


@pytest.mark.parametrize("record", [Record("!", 0, 0, b"sendfile", b""), Record("o", 1, os.O_RDWR, b"/disk/a", b"")])
def test_what_cannot_be_modelled_fails(doing, record):
    with pytest.raises(AssertionError):
        doing.disk.do(record)
