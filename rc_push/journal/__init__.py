"""Where every event is stored before anything else happens: SQLite, with one writer and any number of readers.

`Journal` is what the daemon's loops use. It is loaded at its first use: a command that only reads needs no asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rc_push.journal.progress import Advance, Attempt, ProgressRows, Registered, Replay, Unfinished
from rc_push.journal.reader import Reader, Tally, UnreadableRow
from rc_push.journal.store import Appended, Store

if TYPE_CHECKING:
    from rc_push.journal.journal import Journal

__all__ = [
    "Advance",
    "Appended",
    "Attempt",
    "Journal",
    "ProgressRows",
    "Reader",
    "Registered",
    "Replay",
    "Store",
    "Tally",
    "Unfinished",
    "UnreadableRow",
]


def __getattr__(name: str) -> Any:
    """Load `Journal` at its first use (PEP 562)."""
    if name != "Journal":
        raise AttributeError(name)
    from rc_push.journal.journal import Journal  # noqa: PLC0415 - see above

    return Journal
