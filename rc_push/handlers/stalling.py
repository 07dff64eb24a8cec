"""How long is a reader waited for that takes nothing? Blocking. Knows descriptors alone."""

from __future__ import annotations

import errno
import select

# What is written to a reader that stands still fails after it, so that the daemon can stop. Well below any timeout_s.
STALL_MAX_S = 5.0


def wait_writable(fd: int) -> None:
    """Return once something can be written to *fd*. Raises TimeoutError after `STALL_MAX_S`."""
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(fd, select.POLLOUT)
    if not poll.poll(STALL_MAX_S * 1000):  # from None: the write that would have blocked tells nothing more
        raise TimeoutError(errno.ETIMEDOUT, f"its reader took nothing for {STALL_MAX_S:g} s") from None
