"""What has to begin anew when the file has changed? Two configurations compared.

Pure: knows settings and what depends on what; knows nothing of what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rc_push.config.settings import Config
from rc_push.errors import ConfigError, Problem

# What is held for the whole life of the process: the journal's lock, the socket of the commands.
FIXED = ("journal.path", "service.control")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of what is new, gone or different. What an account's subscriptions need of it is part of them."""

    accounts: frozenset[str] = frozenset()
    subscriptions: frozenset[str] = frozenset()
    handlers: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()

    def keys(self) -> list[str]:
        """Return all of them as the file spells them."""
        named = {"accounts": self.accounts, "subscriptions": self.subscriptions, "handlers": self.handlers}
        return [f"{kind}.{name}" for kind, names in named.items() for name in sorted(names)] + sorted(self.tables)


def everything_in(config: Config) -> Changes:
    """Return what has to begin where nothing runs yet."""
    return Changes(frozenset(config.accounts), frozenset(config.subscriptions), frozenset(config.handlers))


def changes_between(old: Config, new: Config) -> Changes:
    """Return what differs. Raises ConfigError where that takes a restart of the daemon."""
    if fixed := [key for key in FIXED if _value(old, key) != _value(new, key)]:
        remedy = "put it back, or restart the daemon"
        raise ConfigError(
            [Problem(key, "it cannot change while the daemon is running", remedy) for key in fixed],
            path=str(new.path) if new.path else None,
        )
    names = ("journal", "network", "log", "service", "web")
    tables = frozenset(name for name in names if _value(old, name) != _value(new, name))
    accounts = _differing(old.accounts, new.accounts)
    if "network" in tables:
        accounts |= old.accounts.keys() | new.accounts.keys()
    dependent = {
        one.name for one in (*old.subscriptions.values(), *new.subscriptions.values()) if one.account in accounts
    }
    subscriptions = _differing(old.subscriptions, new.subscriptions) | dependent
    return Changes(accounts, subscriptions, _differing(old.handlers, new.handlers), tables)


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
