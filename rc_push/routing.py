"""Which events does a handler get? The user's rules from the file, never the plug-in's.

Knows envelopes and the settings; knows nothing of handlers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import Any, TypeVar

from rc_push.config import HandlerConfig
from rc_push.config.values import Mistake
from rc_push.config.where import compile_where
from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, Problem, RoutingError
from rc_push.event_types import OWN

T = TypeVar("T")

# What a strange event makes jmespath and json raise. Their texts quote the event, so none is passed on.
_FAILURES = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError)
SHOWN_MAX_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an event goes to a handler, which *rules* decided it, and *why* in words.

    Where it goes, these are all that are given, possibly none; where it does not, the first one without a match.
    """

    goes: bool
    rules: tuple[str, ...]
    why: str


class Route:
    """The rules of one handler: an event goes there where every kind of rule that is given has a match.

    What the daemon itself tells (`rc-push.gap`) goes only where a glob of `types` begins with `rc-push.`: a handler
    that wants everything wants everything of RingCentral's.
    """

    def __init__(self, config: HandlerConfig) -> None:
        """Raise ConfigError where `where` cannot be used."""
        self._config = config
        self._types = _pattern(config.types)
        self._own_types = _pattern([glob for glob in config.types if glob.startswith(OWN)])
        self._events = _pattern(config.events)
        self._subscriptions = frozenset(config.subscriptions)
        try:
            self._where = None if config.where is None else compile_where(config.where)
        except Mistake as mistake:
            problem = Problem(f"handlers.{config.name}.where", mistake.found, mistake.remedy)
            raise ConfigError([problem]) from None

    def matches(self, envelope: Envelope) -> bool:
        """Say whether *envelope* goes to the handler. Raises RoutingError where its rules cannot be applied to it."""
        if self._subscriptions and envelope.subscription not in self._subscriptions:
            return False
        if envelope.type.startswith(OWN):
            if self._own_types is None or not self._own_types.match(envelope.type):
                return False
        elif self._types and not self._types.match(envelope.type):
            return False
        if self._events and not self._events.match(_read(envelope, _event)):
            return False
        return self._where is None or self._value(envelope) is True

    def decide(self, envelope: Envelope) -> Decision:
        """Return what `matches` says, with the reason. Raises RoutingError as it does."""
        reasons = {}
        for rule, reason, has_match in self._verdicts(envelope):
            reasons[rule] = reason
            if not has_match:
                return Decision(goes=False, rules=(rule,), why=f"{rule}: {reason}")
        why = "; ".join(f"{rule}: {reason}" for rule, reason in reasons.items())
        return Decision(goes=True, rules=tuple(reasons), why=why or "it has no rules and gets everything")

    def _verdicts(self, envelope: Envelope) -> Iterator[tuple[str, str, bool]]:
        """Yield each rule that is given, in the order in which `matches` looks, with what it finds."""
        if envelope.type.startswith(OWN) and self._own_types is None:
            yield "types", f"{envelope.type} goes only where a glob of types begins with {OWN}", False
        if names := self._config.subscriptions:
            has_match = envelope.subscription in names
            expected = "" if has_match else f", not over {_listed(names)}"
            yield "subscriptions", f'it came over "{envelope.subscription}"{expected}', has_match
        if globs := self._config.types:
            yield "types", *_verdict(envelope.type, globs)
        if globs := self._config.events:
            yield "events", *_verdict(_read(envelope, _event), globs)
        if self._where is not None:
            value = self._value(envelope)
            yield "where", f"gives {_described(value)}", value is True

    def _value(self, envelope: Envelope) -> Any:
        """Return what `where` gives for *envelope*."""
        event = _read(envelope, Envelope.to_dict)
        try:
            return self._where(event) if self._where else None
        except _FAILURES as exc:
            raise RoutingError(f"where: {_failure(exc)}") from None


def _pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(glob) for glob in globs)) if globs else None


def _read(envelope: Envelope, read: Callable[[Envelope], T]) -> T:
    """Return what *read* finds in the payload. Raises RoutingError where it is none that could have been stored."""
    try:
        return read(envelope)
    except _FAILURES as exc:
        raise RoutingError(f"its payload cannot be read ({type(exc).__name__})") from None


def _event(envelope: Envelope) -> str:
    return envelope.event


def _verdict(text: str, globs: Sequence[str]) -> tuple[str, bool]:
    glob = next((glob for glob in globs if fnmatchcase(text, glob)), None)
    shown = text if len(text) <= SHOWN_MAX_LENGTH else text[: SHOWN_MAX_LENGTH - 1] + "…"
    shown = shown or "an empty text"
    return (f"{shown} matches none of {_listed(globs)}", False) if glob is None else (f'{shown} matches "{glob}"', True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _described(value: Any) -> str:
    """Return what *value* is, without what the event says in it."""
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
    kind = {str: "a text", int: "a number", float: "a number", list: "a list"}.get(type(value), "an object")
    return f"{kind}, and only the value true is a yes"


def _failure(exc: Exception) -> str:
    """Return what went wrong in an evaluation, by the names of functions and types alone."""
    function, got = getattr(exc, "function_name", None), getattr(exc, "actual_type", None)
    if function is None or got is None:
        return f"cannot be evaluated ({type(exc).__name__}); compare values of the same type"
    kinds = " or ".join(getattr(exc, "expected_types", ()))
    remedy = "; give it something in place of null, as in body.text || ''" if got in {"null", "NoneType"} else ""
    return f"{function}() takes {kinds} and got {got}{remedy}"
