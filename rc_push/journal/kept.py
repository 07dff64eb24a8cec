"""What is kept beside the events? Texts of accounts and webhooks under their names, and the ids that we have created.

The part of the store for what outlives the process and is nobody's event. Knows the schema; knows nothing of what is in
the texts: tokens, among others.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

# How long it is known of a subscription at RingCentral that it was ours; one that nobody renews lives minutes.
CREATED_KEPT_MS = 30 * 86_400_000

Kind = Literal["oauth_sessions", "webhooks", "rest_limits"]
# The column with the name, and that with the text.
_COLUMNS = {
    "oauth_sessions": ("account", "session"),
    "webhooks": ("subscription", "state"),
    "rest_limits": ("account", "state"),
}


class KeptRows:
    """The rows of what is kept, through the store's one connection. Call within its `transaction()`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def load(self, kind: Kind, name: str) -> bytes | None:
        """Return what was saved last under *name*."""
        key, value = _COLUMNS[kind]
        row = self._db.execute(f"SELECT {value} FROM {kind} WHERE {key} = ?", (name,)).fetchone()  # noqa: S608 - from above
        return bytes(row[0]) if row else None

    def save(self, kind: Kind, name: str, text: bytes) -> None:
        """Keep *text* under *name*, in place of what was there."""
        key, value = _COLUMNS[kind]
        self._db.execute(
            f"INSERT INTO {kind} ({key}, {value}) VALUES (?,?)"  # noqa: S608 - from above
            f" ON CONFLICT ({key}) DO UPDATE SET {value} = excluded.{value}",
            (name, text),
        )

    def note_created(self, account: str, subscription_id: str, at_ms: int) -> None:
        """Keep the id of a subscription that we have created at RingCentral; forget those of long ago."""
        self._db.execute("DELETE FROM created_subscriptions WHERE created_at < ?", (at_ms - CREATED_KEPT_MS,))
        self._db.execute(
            "INSERT INTO created_subscriptions (id, account, created_at) VALUES (?,?,?) ON CONFLICT DO NOTHING",
            (subscription_id, account, at_ms),
        )
