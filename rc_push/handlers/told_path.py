"""How is a path told that is made of an event? By its template: what people have written must not get into a log.

What the system raises names the path, and so does its traceback. Knows paths; knows nothing of events or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rc_push.errors import HandlerError


def without_path(exc: OSError, template: str) -> OSError:
    """Return *exc* with *template* in the place of the path, if there is one; as it is where there is no template."""
    if not template or exc.errno is None:
        return exc
    return OSError(exc.errno, exc.strerror, template) if exc.filename else OSError(exc.errno, exc.strerror)


@contextmanager
def telling(path: Path, template: str) -> Iterator[None]:
    """Let what is raised inside tell *template*, where there is one, and *path* in its detail alone.

    Raises OSError, HandlerError.
    """
    try:
        yield
    except (OSError, HandlerError) as exc:
        if not template:
            raise
        told = without_path(exc, template) if isinstance(exc, OSError) else exc
        vars(told)["detail"] = str(path)  # see errors.detail_of
        raise told from None
