"""Where does each key stand? tomllib does not tell."""

from __future__ import annotations

import re
import tomllib

from rc_push.config.words import Key

_TOKEN = re.compile(
    r'(?P<name>"{3}(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'|[^][{}=,.\s\#"\']+)'
    r"|(?P<comment>\#[^\n]*)|(?P<mark>[][{}=,\n])",
    re.DOTALL,
)
# Keys of ours are no deeper; what is below has the line of what is above.
_DEPTH = 5


def lines_by_key(text: str) -> dict[Key, int]:
    """Return the line where each key and each table of *text* first stands. *text* is valid TOML.

    tomllib does not tell; this reads headers, dotted keys and inline tables, and steps over everything else.
    """
    lines: dict[Key, int] = {}
    line = 1
    table: Key = ()
    key: Key = ()
    parts: list[str] = []  # of the key that is being read
    brackets: list[Key | None] = []  # those open in a value: an inline table's key, None for a list
    in_key, in_header = True, False
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if match.lastgroup == "name":
            parts += [_unquoted(piece)] if in_key else []
        elif piece == "\n" and not brackets:
            parts, in_key, in_header = [], True, False
        elif piece == "[" and in_key and not brackets:
            in_header = True
        elif piece == "]" and in_header:
            table = _note(tuple(parts), line, lines) if parts else table
            parts = []
        elif piece == "=":
            key = _note((brackets[-1] or () if brackets else table) + tuple(parts), line, lines)
            parts, in_key = [], False
        elif piece in ("[", "{"):
            brackets.append(key if piece == "{" else None)
            in_key = piece == "{"
        elif piece in ("]", "}") and brackets:
            brackets.pop()
            in_key = False
        elif piece == ",":
            in_key = bool(brackets) and brackets[-1] is not None
        line += piece.count("\n")
    return lines


def _note(key: Key, line: int, lines: dict[Key, int]) -> Key:
    key = key[:_DEPTH]
    for depth in range(1, len(key) + 1):
        lines.setdefault(key[:depth], line)
    return key


def _unquoted(token: str) -> str:
    return str(tomllib.loads(f"key = {token}")["key"]) if token[0] in "\"'" else token
