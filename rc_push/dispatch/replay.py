"""Which events are handed over once more? What an operator has asked for, as it is kept in the journal.

Knows envelopes and routes; knows nothing of how they are read or handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from rc_push.config import HandlerConfig
from rc_push.config.values import Mistake
from rc_push.config.where import check_where
from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, Problem
from rc_push.routing import Route

# More parked events than these are asked for again as a replay: what waits for a retry is kept in memory, and until it
# is done nothing new is read.
RETRY_AT_ONCE = 1000


class Selection(msgspec.Struct, frozen=True, dict=True, omit_defaults=True):
    """The events at *positions*, or (None) all of a span whose type matches the globs *types*, and *where*.

    *is_retry*: of these, what is parked when its turn comes, and nothing else.
    """

    positions: frozenset[int] | None = None
    types: tuple[str, ...] = ()
    where: str | None = None
    is_retry: bool = False

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Return what `to_json` gave."""
        return msgspec.json.decode(text, type=cls)

    def check(self) -> None:
        """Raise ConfigError where *where* cannot be used."""
        try:
            if self.where is not None:
                check_where(self.where)
        except Mistake as mistake:
            raise ConfigError([Problem("where", mistake.found, mistake.remedy)]) from None

    def to_json(self) -> str:
        """Return it as text for the journal."""
        return msgspec.json.encode(self).decode()

    def matches(self, envelope: Envelope) -> bool:
        """Say whether *envelope* is one of them. Raises what `Route.matches` raises."""
        if self.positions is not None and envelope.position not in self.positions:
            return False
        return self._route.matches(envelope)

    @cached_property
    def _route(self) -> Route:
        return Route(HandlerConfig("replay", "", types=self.types, where=self.where))


def split_retry(parked: Sequence[int], position: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return which of the *parked* events, in order, wait for a call at once, and which are asked for as a replay.

    *position* is the handler's: a replay leaves out what is ahead of it, which is never much.
    """
    many = [at for at in parked if at <= position] if len(parked) > RETRY_AT_ONCE else []
    return parked[len(many) :], many
