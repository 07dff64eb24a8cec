"""What does a command work in that needs no file of the user's? A folder that goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rc_push.errors import RcPushError


@contextmanager
def temporary_folder(command: str) -> Iterator[Path]:
    """Make a folder for *command*, and remove it at the end. Raises RcPushError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"rc-push-{command}-")
    except OSError as exc:
        remedy = "set TMPDIR to a folder that this user can write"
        raise RcPushError(f"no temporary folder can be made: {exc.strerror}; {remedy}") from None
    with folder as name:
        yield Path(name)
