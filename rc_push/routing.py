"""Which events does a handler get? The user's rules from the file, never the plug-in's.

Knows envelopes and the settings; knows nothing of handlers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope


class Route:
    """The rules of one handler: an event goes there where every kind of rule that is given has a match."""

    def __init__(self, config: HandlerConfig) -> None:
        self._types = _pattern(config.types)
        self._events = _pattern(config.events)
        self._subscriptions = frozenset(config.subscriptions)

    def matches(self, envelope: Envelope) -> bool:
        """Say whether *envelope* goes to the handler."""
        if self._subscriptions and envelope.subscription not in self._subscriptions:
            return False
        if self._types and not self._types.match(envelope.type):
            return False
        return not self._events or self._events.match(envelope.event) is not None


def _pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(glob) for glob in globs)) if globs else None
