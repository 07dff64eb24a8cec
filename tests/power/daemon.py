"""`rc-push`, hurried: its segments are full, its log is written back and its room is used up within seconds."""

from __future__ import annotations

from rc_push.__main__ import script
from rc_push.config import file as config_file
from rc_push.journal import store

SEGMENT_MIN_BYTES = 16 << 10
CHECKPOINT_PAGES = 60


def hurry():
    open_alone = store.open_alone

    def opened(*args):
        lock, db = open_alone(*args)
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * 4096}")
        return lock, db

    config_file.JOURNAL_MIN_BYTES = 1
    store.SEGMENT_MIN_BYTES = SEGMENT_MIN_BYTES
    store.open_alone = opened


if __name__ == "__main__":
    hurry()
    script()
