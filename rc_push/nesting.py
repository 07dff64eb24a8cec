"""How deep is a JSON text nested? Told without reading it as JSON, which is what a deep one is to be kept from."""

from __future__ import annotations

import re

# A string without an end is looked for once: what begins it is no string of its own then.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")


def is_deeper_than(levels: int, text: bytes) -> bool:
    """Say whether *text*, if it is JSON, is nested deeper than *levels*. Takes linear time, whatever it is."""
    # Nearly always one of these holds; the look itself costs more.
    if len(text) <= 2 * levels or _has_at_most(levels, text):
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match[0]
        if bracket in _OPENING:
            depth += 1
            if depth > levels:
                return True
        elif bracket in _CLOSING:
            depth -= 1
    return False


def _has_at_most(levels: int, text: bytes) -> bool:
    """Say whether *text* has at most so many opening brackets. Taking them out is faster than to count."""
    braces = len(text) - len(text.replace(b"{", b"", levels + 1))
    return braces + len(text) - len(text.replace(b"[", b"", levels + 1)) <= levels
