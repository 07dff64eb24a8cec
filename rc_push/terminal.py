"""What may be shown on a terminal? Text with nothing in it that one would obey, whoever has written it.

Knows characters; knows nothing of where a text comes from or goes to.
"""

from __future__ import annotations

import re
import unicodedata

BMP_MAX = 0xFFFF

# Control characters of both sets, what begins another line, and what turns the direction of the text behind it.
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# The same, and what cannot be seen. In JSON all of them stand in strings, but for what is below a blank.
_HIDDEN_IN_JSON = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """Return *text* on one line; all in it that a terminal obeys, or that nobody sees, stands as a code."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c)[0] in "CZ" and c != " " else c for c in text)


def unobeyed(text: str) -> str:
    """Return *text* on one line; what a terminal obeys stands as a code, and every script and emoji can be read."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def unobeyed_json(text: str) -> str:
    """Return the lines of JSON in *text* as equal ones with nothing in them that a terminal obeys or nobody sees."""
    return _HIDDEN_IN_JSON.sub(_json_code, text)


def _json_code(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= BMP_MAX:
        return f"\\u{code:04x}"
    code -= BMP_MAX + 1
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
