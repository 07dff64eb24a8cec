"""Run rc-push with time that passes faster: `python hastened.py ARGUMENTS`, as `python -m rc_push ARGUMENTS` is.

No number of rc-push is changed. Its clocks run `speed` times as fast, and what it asks the kernel to wait for is
divided by as much, so that two processes that are given the same beginning live in the same time.

$RC_PUSH_CHAOS_TIME   "SPEED WALL MONOTONIC": the clocks' beginning, real seconds both
$RC_PUSH_CHAOS_CLOCK  a file of eight bytes, a double: by how many seconds this process's wall clock is wrong
"""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_real_wall, _real_monotonic, _real_sleep = time.time, time.monotonic, time.sleep
_DOUBLE = struct.Struct("d")


@dataclass(frozen=True, slots=True)
class Time:
    """A time that runs *speed* times as fast as ours since it began, at *wall* and *monotonic*, real seconds."""

    speed: float
    wall: float
    monotonic: float

    @classmethod
    def beginning_now(cls, speed: float) -> Time:
        """Begin a time."""
        return cls(speed, _real_wall(), _real_monotonic())

    @classmethod
    def from_text(cls, text: str) -> Time:
        """Return what `to_text` has written."""
        return cls(*map(float, text.split()))

    def to_text(self) -> str:
        """Return it as text, without a loss."""
        return " ".join(map(repr, (self.speed, self.wall, self.monotonic)))

    def now(self) -> float:
        """Return its monotonic clock."""
        return self.monotonic + (_real_monotonic() - self.monotonic) * self.speed

    def wall_s(self) -> float:
        """Return its wall clock, which nobody puts back: it follows the monotonic one."""
        return self.wall + (_real_monotonic() - self.monotonic) * self.speed

    def wall_ms(self) -> int:
        """Return the same in ms since 1970."""
        return round(self.wall_s() * 1000)

    def sleep(self, seconds: float) -> None:
        """Sleep for so many of its seconds."""
        if seconds > 0:
            _real_sleep(seconds / self.speed)


class ClockFile:
    """By how much a process's wall clock is wrong, shared with it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_DOUBLE.pack(0.0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _DOUBLE.size)

    def read(self) -> float:
        """Return the seconds that are added."""
        return float(_DOUBLE.unpack_from(self._map)[0])

    def write(self, seconds: float) -> None:
        """Let the clock jump."""
        _DOUBLE.pack_into(self._map, 0, seconds)


def hasten(passing: Time, clock: ClockFile) -> None:
    """Let this process live in *passing*, with its wall clock as wrong as *clock* says."""
    time.monotonic = passing.now
    time.time = lambda: passing.wall_s() + clock.read()
    time.sleep = passing.sleep
    selectors.EpollSelector.select = _divided(selectors.EpollSelector.select, passing.speed)
    settimeout = socket.socket.settimeout
    socket.socket.settimeout = lambda self, value: settimeout(self, value / passing.speed if value else value)


def _divided(select, speed):
    def divided(self, timeout=None):
        return select(self, timeout / speed if timeout and timeout > 0 else timeout)

    return divided


def main() -> None:
    """Hasten, then be rc-push."""
    hasten(Time.from_text(os.environ["RC_PUSH_CHAOS_TIME"]), ClockFile(Path(os.environ["RC_PUSH_CHAOS_CLOCK"])))
    sys.argv[0] = "rc-push"
    from rc_push.__main__ import script

    script()


if __name__ == "__main__":
    main()
