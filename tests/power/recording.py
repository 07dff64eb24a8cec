"""What did a process tell the disk, and in which order? Runs it with `recorder.c`, and reads what that noted."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_name("recorder.c")
_HEAD = struct.Struct("<c3xIQII")


class Record(NamedTuple):
    """One thing that was done. *op*: o(pen) w(rite) t(runcate) a(llocate) s(ync) r(ename) l(ink) u(nlink) m(kdir).

    And n(ote), h(TTP answer 200, *number* is the port it went to), ! (what the recorder cannot tell).
    """

    op: str
    handle: int
    number: int
    one: bytes
    two: bytes


def built_recorder(folder: Path) -> Path:
    """Return the library to preload, compiled into *folder*; skips the test where nothing can compile it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the recorder of writes with")
    library = folder / "recorder.so"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True)
    return library


class Recording:
    """What a process does to the files below *root* and notes at *notes*; `environ` has it recorded."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.root = folder / "disk"
        self.root.mkdir(parents=True)
        self.notes = folder / "notes"
        self._log = folder / "log"
        self._library = library

    def environ(self) -> dict[str, str]:
        """Return what a process needs in its environment to be recorded. Several, one after another, share a log."""
        ours = {"POWER_ROOT": self.root, "POWER_LOG": self._log, "POWER_NOTES": self.notes}
        return {"LD_PRELOAD": str(self._library), **{name: str(path) for name, path in ours.items()}}

    def run(self, command: list[str], within_s: float = 120.0, **environ: object) -> None:
        """Run *command* to its end, recorded, with *environ* added."""
        added = {name: str(value) for name, value in environ.items()}
        subprocess.run(command, env={**os.environ, **added, **self.environ()}, check=True, timeout=within_s)

    def records(self) -> list[Record]:
        """Return all that was recorded, in order."""
        return list(_records(self._log.read_bytes()))


def _records(raw: bytes) -> Iterator[Record]:
    at = 0
    while at < len(raw):
        op, handle, number, one, two = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        yield Record(op.decode(), handle, number, raw[at : at + one], raw[at + one : at + one + two])
        at += one + two
