"""How is a wrong value told to people? Short, on one line, and never a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

Key = tuple[str, ...]
SHOWN_MAX_LENGTH = 60


def found(raw: Any) -> str:
    """Return *raw* for people: the value where it is short, else its kind."""
    if isinstance(raw, str):
        return short(raw)
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) or (isinstance(raw, int) and raw.bit_length() < 64):  # noqa: PLR2004 - an int of TOML
        return str(raw)
    if isinstance(raw, list) and (strangers := [item for item in raw if not isinstance(item, str) or not item]):
        return f"a list with {kind_of(strangers[0]) if strangers[0] != '' else 'an empty string'} in it"
    return kind_of(raw)


def kind_of(raw: Any) -> str:
    """Return what kind of TOML value *raw* is, for people."""
    kinds = {
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(raw), "a date or time")


def found_url(url: str) -> str:
    """Return *url* for people, unless it holds a password."""
    return "an address with a password" if "@" in url else short(url)


def short(text: str) -> str:
    """Return *text* in quotes, on one line, cut where it is long."""
    text = text if len(text) <= SHOWN_MAX_LENGTH else text[: SHOWN_MAX_LENGTH - 1] + "…"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def nearest(name: str, known: list[str]) -> str:
    """Return the remedy for the unknown *name*: the most similar of *known*, else all of them."""
    close = difflib.get_close_matches(name[:SHOWN_MAX_LENGTH], known, 1)
    return f'did you mean "{close[0]}"?' if close else f"known are {listed(known)}"


def listed(names: Iterable[str]) -> str:
    """Return *names* for people."""
    return ", ".join(_part(name) for name in names) or "none"


def dotted(key: Key) -> str:
    """Return *key* as TOML writes it."""
    return ".".join(_part(part) for part in key)


def _part(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]{1,60}", name) else short(name)
