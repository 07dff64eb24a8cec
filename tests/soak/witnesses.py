"""Who has seen what? The journal, a file, a program's output and a receiver, each read on as it grows.

Events are known by the number that their uuid is. Knows where uuids stand; judges nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Self

from accounts import at_ms
from aiohttp import web

from rc_push.journal.opening import connect_read_only

OWN = "rc-push.gap"
UUID = re.compile(rb'^\{"uuid":"(\d+)"', re.MULTILINE)
# A failing receiver, and a slow one: with 16 calls at a time, 160 events a second.
FAILS_WITH = 503
SLOW_S = 0.1


class JournalWitness:
    """What was stored, by our subscription; looks often enough to see an event before retention removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.stored: dict[str, array[int]] = {}
        self.oldest_ms: int | None = None

    def look(self) -> None:
        """Read what has come. A short read on a connection of its own: it holds up no checkpoint."""
        if not self._path.exists():
            return
        with closing(connect_read_only(self._path)) as db:
            rows = db.execute(
                "SELECT e.position, s.name, e.uuid, e.type FROM events e JOIN subscriptions s ON s.id = e.subscription"
                " WHERE e.position > ? ORDER BY e.position",
                (self._position,),
            ).fetchall()
            oldest = db.execute("SELECT received_at FROM events ORDER BY position LIMIT 1").fetchone()
        self.oldest_ms = oldest[0] if oldest else None
        for position, name, uuid, kind in rows:
            self._position = position
            if kind != OWN:
                self.stored.setdefault(name, array("q")).append(int(uuid))


class FileWitness:
    """What stands at the beginning of a file's lines, through its rotations: what is open is read to its end first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self.seen: array[int] = array("q")

    def look(self) -> None:
        """Read what has come."""
        if self._file is None and not self._open():
            return
        while True:
            self._read()
            if not self._is_rotated():
                return
            self._read()  # what came between the read and the rotation
            if not self._open():
                return

    def close(self) -> None:
        """Read no more."""
        if self._file:
            self._file.close()

    def _open(self) -> bool:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:  # between two files
            return False
        if self._file:
            self._file.close()
        self._file = file
        return True

    def _is_rotated(self) -> bool:
        assert self._file is not None
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return True

    def _read(self) -> None:
        assert self._file is not None
        whole, newline, rest = (self._rest + self._file.read()).rpartition(b"\n")
        self._rest = rest
        if newline:
            self.seen.extend(map(int, UUID.findall(whole)))


class Receiver:
    """What `forward` posts to: well, slow or failing, as *mood* says."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self.mood = "well"
        self.seen: array[int] = array("q")
        self._wall_ms = wall_ms
        self._latencies_ms: list[int] = []
        self._runner = web.ServerRunner(web.Server(self._take))

    async def __aenter__(self) -> Self:
        """Listen on loopback."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/"  # the port was the kernel's choice
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def take_latencies(self) -> list[int]:
        """Return how long events took from their emission to here, and begin anew."""
        taken, self._latencies_ms = self._latencies_ms, []
        return taken

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        token = request.headers.get("Validation-Token")
        if token is not None:
            return web.Response(headers={"Validation-Token": token})
        payload = await request.read()
        if self.mood == "failing":
            return web.Response(status=FAILS_WITH)
        if self.mood == "slow":
            await asyncio.sleep(SLOW_S)
        [uuid] = map(int, UUID.findall(payload))
        self.seen.append(uuid)
        self._latencies_ms.append(self._wall_ms() - at_ms(uuid))
        return web.Response()
