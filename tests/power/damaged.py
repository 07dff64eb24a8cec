"""A journal that is damaged where nothing is lost by it: an index. Begun here, or (as a program) salvaged.

python damaged.py PATH NOTES
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from power.judge import SUBSCRIPTION, batch

from rc_push.journal import Store
from rc_push.journal.salvage import salvage

PAGE_BYTES, INDEX_LEAF = 4096, 0x0A


def begin_damaged(path: Path, aside: Path) -> dict[str, int]:
    """Leave a journal at *path* as a killed daemon does, its log not written back, and damage it; return its events.

    Some payloads lie in rows, some in segments, and some rows only in the log.
    """
    path.parent.mkdir(parents=True)
    uuids = [f"s{number}-{300 if number % 3 else 6000}" for number in range(400)]
    with closing(Store(aside)) as store:
        for first in (0, 100, 200):
            with store.transaction():
                store.append(batch(uuids[first : first + 100]))
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for first in range(300, 400, 10):
            with store.transaction():
                store.append(batch(uuids[first : first + 10]))
        positions = dict(store._db.execute("SELECT uuid, position FROM events"))
        for part in ("", "-wal", ".lock"):
            shutil.copy(f"{aside}{part}", f"{path}{part}")
        shutil.copytree(f"{aside}-segments", f"{path}-segments")
    _damage(path, uuids[150])
    return positions


def _damage(path: Path, uuid: str) -> None:
    """Overwrite the page of the index in which *uuid* stands."""
    raw = bytearray(path.read_bytes())
    (page,) = [
        at
        for at in range(PAGE_BYTES, len(raw), PAGE_BYTES)
        if raw[at] == INDEX_LEAF and uuid.encode() in raw[at : at + PAGE_BYTES]
    ]
    raw[page : page + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(raw)


if __name__ == "__main__":
    notes = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    found = salvage(Path(sys.argv[1]), (SUBSCRIPTION,), now_ms=1_800_000_000_000)
    os.write(notes, json.dumps({"salvaged": str(found.damaged)}).encode())
