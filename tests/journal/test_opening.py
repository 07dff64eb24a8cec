"""What the connection that writes the journal asks of SQLite."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path

from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.opening import LOG_LIMIT_BYTES, connect_read_only

SOURCE = Source("main", "team", "websocket")
ROW_BYTES = 50_000  # more would go into a segment


def test_the_log_that_a_long_read_has_made_long_becomes_short_again(store):
    log, numbers = Path(f"{store.path}-wal"), itertools.count()

    def write(total_bytes: int) -> None:
        for number in itertools.islice(numbers, total_bytes // ROW_BYTES):
            payload = b'{"uuid":"%d","x":"%b"}' % (number, b"x" * ROW_BYTES)
            with store.transaction():
                store.append(Batch("team", [Envelope(str(number), "other", payload, SOURCE, 0)]))

    with closing(connect_read_only(store.path)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM events").fetchone()
        write(3 * LOG_LIMIT_BYTES)
        assert log.stat().st_size > 3 * LOG_LIMIT_BYTES
    write(LOG_LIMIT_BYTES)
    assert log.stat().st_size < 1.1 * LOG_LIMIT_BYTES
