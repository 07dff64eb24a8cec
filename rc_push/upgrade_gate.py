"""When is it worth knocking at the gateway again? Each knock costs a token, of which there are five a minute.

Where HTTP works and the WebSocket upgrade does not get through, no connection of the account will: then one knocks for
all, and seldom. Knows nothing of clocks or sockets (`now` is an argument).
"""

from __future__ import annotations

import math

from rc_push.errors import UnreachableError, UpgradeBlocked

# After the first, the second … failure in a row; the last one repeats. The first can be an accident.
PAUSES_S = (1.0, 15.0, 60.0, 120.0, 300.0)
# How long the others wait for the one that knocks.
SCOUT_S = 30.0


class UpgradeGate:
    """What is known of one account's way to the gateway."""

    def __init__(self) -> None:
        self._failures = 0
        self._found = ""
        self._shut_until = -math.inf
        self._is_scouting = False

    def enter(self, now: float) -> None:
        """Let one in. Raises UpgradeBlocked, with the seconds to wait, where there is no use in it now."""
        if now < self._shut_until:
            raise UpgradeBlocked(self._found, retry_after_s=self._shut_until - now)
        if self._failures:
            self._is_scouting, self._shut_until = True, now + SCOUT_S

    def worked(self) -> None:
        """Take note of a connection that was opened."""
        self._failures, self._shut_until, self._is_scouting = 0, -math.inf, False

    def failed(self, exc: UnreachableError, now: float) -> UnreachableError:
        """Take note of *exc*, with which a connection was not opened; return what that means.

        An answer that is no gateway's is clear. A connection that ends at the upgrade is so from the second time on.
        """
        if not isinstance(exc, UpgradeBlocked) and (exc.phase != "upgrade" or exc.status):
            self._shut_until = now if self._is_scouting else self._shut_until
            self._is_scouting = False
            return exc
        if self._is_scouting or now >= self._shut_until:  # else it set out with one whose failure is known
            self._failures += 1
            self._shut_until = now + PAUSES_S[min(self._failures, len(PAUSES_S)) - 1]
            self._is_scouting = False
        self._found = exc.found if isinstance(exc, UpgradeBlocked) else str(exc)
        if self._failures < 2 and not isinstance(exc, UpgradeBlocked):  # noqa: PLR2004 - the second time
            return exc
        return UpgradeBlocked(self._found, status=exc.status, retry_after_s=self._shut_until - now)
