"""How deep is a JSON text nested? Told without reading it as JSON, which is what a deep one is to be kept from."""

from __future__ import annotations

import re

# A string without an end is looked for once: what begins it is no string of its own then.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")


def is_deeper_than(levels: int, text: bytes) -> bool:
    """Say whether *text*, if it is JSON, is nested deeper than *levels*. Takes linear time, whatever it is."""
    size = len(text)
    if size <= 2 * levels:
        return False
    # There are seldom so many opening brackets. To take them out tells that fastest; the look itself costs more.
    braces = size - len(text.replace(b"{", b"", levels + 1))
    if braces + size - len(text.replace(b"[", b"", levels + 1)) <= levels:
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
