"""What may a disk hold after the power was cut? A model of it: what was flushed, and what was only on its way.

Files are sectors, names are entries of folders; both are only promised once they were flushed (fsync of the file, of
the folder). What was on its way survives by a `Fate`: not at all, wholly, in order up to a moment and torn there, or
each sector and each name by chance. What it takes from a file system is what all have:

* A sector is old or new, never half of both; of several writes to it, it holds any one state between them.
* To make a file shorter, and to give or take a name (a rename: both at once), happens wholly or not at all.
* What becomes of one name happens in order: a new file under it is there only once the old one has given it up.
* What was flushed is there for good.

A direct write (`O_DIRECT`) is on its way like any other: past the system's memory it waits in the device's, and the
size of its file in the file system's, until both are flushed.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from power.recording import Record

SECTOR = 512


@dataclass(slots=True)
class _Change:
    """A change of a file's content that is not flushed: *data* at *at*, or (None) the end moved to *at*."""

    moment: int
    at: int
    data: bytes | None
    size: int  # of the file then


@dataclass(slots=True)
class _File:
    flushed: bytearray = field(default_factory=bytearray)
    size: int = 0
    changes: list[_Change] = field(default_factory=list)


@dataclass(slots=True)
class _Naming:
    """A change of a folder's entries that is not flushed."""

    moment: int
    entries: dict[str, _File | _Folder | None]


@dataclass(slots=True)
class _Folder:
    flushed: dict[str, _File | _Folder] = field(default_factory=dict)
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    changes: list[_Naming] = field(default_factory=list)


class Fate:
    """What becomes of what is on its way. This one: nothing of it survives."""

    def names(self, changes: list[_Naming]) -> Iterable[_Naming]:
        """Return those of *changes* that survive."""
        del changes
        return ()

    def content(self, file: _File) -> bytes:
        """Return what is in *file* afterwards."""
        return bytes(file.flushed)


class All(Fate):
    """All of it survives: what a killed process leaves behind."""

    def names(self, changes: list[_Naming]) -> Iterable[_Naming]:
        return changes

    def content(self, file: _File) -> bytes:
        return _content(file, len(file.changes), lambda _: len(file.changes), file.size)


class NamesOnly(All):
    """Names survive, and no content: a journaling file system that has written its own journal alone."""

    def content(self, file: _File) -> bytes:
        return Fate.content(self, file)


class ContentOnly(All):
    """Content survives, and no name that was not flushed."""

    def names(self, changes: list[_Naming]) -> Iterable[_Naming]:
        return Fate.names(self, changes)


class InOrder(Fate):
    """All survives that was before a *moment*; the write at it is torn."""

    def __init__(self, moment: int, rng: random.Random) -> None:
        self._moment = moment
        self._rng = rng

    def names(self, changes: list[_Naming]) -> Iterable[_Naming]:
        return [change for change in changes if change.moment < self._moment]

    def content(self, file: _File) -> bytes:
        count = sum(change.moment < self._moment for change in file.changes)
        torn = count < len(file.changes) and file.changes[count].moment == self._moment
        if not torn or file.changes[count].data is None:
            size = file.changes[count - 1].size if count else len(file.flushed)
            return _content(file, count, lambda _: count, size)
        change = file.changes[count]
        before = file.changes[count - 1].size if count else len(file.flushed)
        return _content(
            file, count + 1, lambda _: count + self._rng.randint(0, 1), self._rng.choice((before, change.size))
        )


class ByChance(Fate):
    """Each sector and each name by chance. *ordered_names*: names survive in the order in which they were changed."""

    def __init__(self, rng: random.Random, pending: Sequence[int], *, ordered_names: bool) -> None:
        self._rng = rng
        self._share = rng.choice((0.05, 0.3, 0.5, 0.7, 0.95))
        self._names_until = rng.choice((0, *pending)) if ordered_names else None

    def names(self, changes: list[_Naming]) -> Iterable[_Naming]:
        if self._names_until is not None:
            return [change for change in changes if change.moment <= self._names_until]
        survive: list[_Naming] = []
        names: set[str] = set()
        for change in reversed(changes):
            if self._rng.random() < self._share or not names.isdisjoint(change.entries):
                survive.append(change)
                names.update(change.entries)
        return survive[::-1]

    def content(self, file: _File) -> bytes:
        rng, changes = self._rng, file.changes
        if not changes:
            return bytes(file.flushed)
        if rng.random() < 0.25:  # whole files are written back before others, too
            return (All if rng.random() < self._share else Fate).content(self, file)
        sizes = [len(file.flushed), *(change.size for change in changes)]
        cuts = [number for number in range(1, len(sizes)) if sizes[number] < sizes[number - 1]]
        survived = rng.randint(0, len(cuts))
        first = cuts[survived - 1] if survived else 0
        last = cuts[survived] - 1 if survived < len(cuts) else len(changes)

        def until(sector: int) -> int:
            """Return how many of the changes this sector has seen; none from before it was cut away."""
            least = max((number for number in cuts[:survived] if sizes[number] <= sector * SECTOR), default=0)
            return last if rng.random() < self._share else rng.randint(least, last)

        return _content(file, last, until, sizes[rng.choice((last, rng.randint(first, last)))])


def _content(file: _File, count: int, until: Callable[[int], int], size: int) -> bytes:
    """Return the content with the first *count* changes; a sector sees those before the number that *until* gives."""
    content = bytearray(file.flushed)
    seen: dict[int, int] = {}
    for number, change in enumerate(file.changes[:count]):
        if change.data is None:
            if change.at < len(content):
                content[change.at :] = bytes(len(content) - change.at)
            continue
        end = change.at + len(change.data)
        if end > len(content):
            content.extend(bytes(end - len(content)))
        at = change.at
        while at < end:
            sector = at // SECTOR
            stop = min(end, (sector + 1) * SECTOR)
            if sector not in seen:
                seen[sector] = until(sector)
            if number < seen[sector]:
                content[at:stop] = change.data[at - change.at : stop - change.at]
            at = stop
    if size > len(content):
        content.extend(bytes(size - len(content)))
    return bytes(content[:size])


@dataclass(slots=True)
class Image:
    """What a disk holds: by path, the content of a file, or None for a folder. Of one content object: links."""

    entries: dict[str, bytes | None]

    @classmethod
    def of(cls, root: Path) -> Image:
        """Return what is below *root*. SQLite's -shm is left out: it is made anew after a crash."""
        found = sorted(path for path in root.rglob("*") if not path.name.endswith("-shm"))
        contents = {path: None if path.is_dir() else path.read_bytes() for path in found}
        return cls({str(path.relative_to(root)): content for path, content in contents.items()})

    def digest(self) -> bytes:
        """Return what is the same for images that are."""
        one = hashlib.sha256()
        for path, content in self.entries.items():
            one.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
            one.update(content or b"")
        return one.digest()

    def write(self, to: Path) -> None:
        """Write it below the folder *to*."""
        linked: dict[int, Path] = {}
        for name, content in self.entries.items():
            path = to / name
            if content is None:
                path.mkdir(mode=0o700)
            elif content and id(content) in linked:
                os.link(linked[id(content)], path)
            else:
                path.write_bytes(content)
                path.chmod(0o600)
                linked[id(content)] = path


class Disk:
    """The disk while records are done to it, below *root*; *image* is what it begins with.

    *lies_about*: paths, relative to the root, whose flushing does nothing; a folder's stands for its names alone.
    """

    def __init__(
        self, root: Path, image: Image | None = None, *, lies_about: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._root = str(root)
        self._lies_about = lies_about
        self._top = _Folder()
        for path, content in (image or Image({})).entries.items():
            what = _Folder() if content is None else _File(bytearray(content), len(content))
            folder, name = self._place(f"{root}/{path}".encode())
            folder.entries[name] = folder.flushed[name] = what
        self._open: dict[int, tuple[str, _File | _Folder]] = {}
        self.moment = 0

    def do(self, record: Record) -> None:
        """Take over what *record* says. Fails where it cannot be modelled."""
        self.moment += 1
        match record.op:
            case "o":
                self._do_open(record)
            case "w" | "t" | "a":
                self._change(record)
            case "s":
                self._flush(*self._open[record.handle])
            case "m":
                self._name(record.one, _Folder())
            case "u":
                self._name(record.one, None)
            case "l":
                self._name(record.two, self._at(record.one))
            case "r":
                self._rename(record.one, record.two)
            case "n" | "h":
                pass
            case _:
                raise AssertionError(f"the model does not know {record}")

    def after(self, fate: Fate) -> Image:
        """Return what is on the disk after the power was cut now, and *fate* has decided."""
        image = Image({})
        _look(self._top, fate, "", image, {})
        return image

    def pending(self) -> list[int]:
        """Return the moments of all that is on its way."""
        return sorted(_pending(self._top, set()))

    def _do_open(self, record: Record) -> None:
        path, flags = self._relative(record.one), record.number
        found = self._at(record.one)
        if found is None:
            assert flags & os.O_CREAT, f"{path} was there before, or came by an unknown way"
            found = _File()
            self._name(record.one, found)
        elif isinstance(found, _File) and flags & os.O_TRUNC and found.size:
            self._resize(found, 0)
        self._open[record.handle] = (path, found)

    def _change(self, record: Record) -> None:
        file = self._open[record.handle][1]
        assert isinstance(file, _File)
        if record.op == "t":
            self._resize(file, record.number)
        elif record.op == "a":
            self._resize(file, max(file.size, record.number))
        else:
            file.size = max(file.size, record.number + len(record.one))
            file.changes.append(_Change(self.moment, record.number, record.one, file.size))

    def _resize(self, file: _File, size: int) -> None:
        if size != file.size:
            file.size = size
            file.changes.append(_Change(self.moment, size, None, size))

    def _flush(self, path: str, what: _File | _Folder) -> None:
        if self._lies_about(path):
            return
        if isinstance(what, _File):
            what.flushed = bytearray(All().content(what))
        else:
            what.flushed = dict(what.entries)
        what.changes.clear()

    def _rename(self, old: bytes, new: bytes) -> None:
        what = self._at(old)
        assert what is not None
        (folder, name), (other, new_name) = self._place(old), self._place(new)
        assert folder is other, "a rename from folder to folder is two changes, which is not modelled"
        self._enter(folder, {name: None, new_name: what})

    def _name(self, path: bytes, what: _File | _Folder | None) -> None:
        folder, name = self._place(path)
        self._enter(folder, {name: what})

    def _enter(self, folder: _Folder, entries: dict[str, _File | _Folder | None]) -> None:
        _put(folder.entries, entries)
        folder.changes.append(_Naming(self.moment, entries))

    def _relative(self, path: bytes) -> str:
        text = path.decode()
        assert text == self._root or text.startswith(f"{self._root}/")
        return text[len(self._root) + 1 :]

    def _at(self, path: bytes) -> _File | _Folder | None:
        found: _File | _Folder | None = self._top
        for name in filter(None, self._relative(path).split("/")):
            found = found.entries.get(name) if isinstance(found, _Folder) else None
        return found

    def _place(self, path: bytes) -> tuple[_Folder, str]:
        folder, _, name = path.rpartition(b"/")
        found = self._at(folder)
        assert isinstance(found, _Folder)
        return found, name.decode()


def _put(into: dict[str, _File | _Folder], entries: dict[str, _File | _Folder | None]) -> None:
    for name, what in entries.items():
        if what is None:
            into.pop(name, None)
        else:
            into[name] = what


def _look(folder: _Folder, fate: Fate, prefix: str, image: Image, contents: dict[int, bytes]) -> None:
    entries = dict(folder.flushed)
    for change in fate.names(folder.changes):
        _put(entries, change.entries)
    for name, what in sorted(entries.items()):
        if isinstance(what, _Folder):
            image.entries[prefix + name] = None
            _look(what, fate, f"{prefix}{name}/", image, contents)
        else:  # several names of one file have one fate
            if id(what) not in contents:
                contents[id(what)] = fate.content(what)
            image.entries[prefix + name] = contents[id(what)]


def _pending(folder: _Folder, found: set[int]) -> set[int]:
    found.update(change.moment for change in folder.changes)
    for what in {id(w): w for w in (*folder.entries.values(), *folder.flushed.values())}.values():
        if isinstance(what, _Folder):
            _pending(what, found)
        else:
            found.update(change.moment for change in what.changes)
    return found
