"""How does a setting speak of an event? Expressions and templates: JMESPath over the event as users see it.

The one mechanism for all settings; users read of it in docs/handlers.md, "Templates". Knows envelopes and JMESPath,
which is imported only where a text needs it; knows nothing of handlers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rc_push.config.words import listed, short
from rc_push.envelope import Envelope, iso_from_ms

# What stands alone in braces for what paths need. From ours only, so that no event can say something else.
SHORT_NAMES: dict[str, Callable[[Envelope], str]] = {
    "type": lambda envelope: envelope.type,
    "date": lambda envelope: iso_from_ms(envelope.received_at_ms)[:10],
    "hour": lambda envelope: iso_from_ms(envelope.received_at_ms)[11:13],
    "account": lambda envelope: envelope.account,
    "subscription": lambda envelope: envelope.subscription,
}
# Of a value in a path, so that there is room for several of them and an ending.
VALUE_MAX_BYTES = 80
# Of a name in a path. Source: NAME_MAX in linux/limits.h.
NAME_MAX_BYTES = 255
# Of the last one, which gets more: `.` and `.batch`, or a moment, a number and `.gz.part` (handlers/rotation.py).
LAST_NAME_MAX_BYTES = 220
# What JMESPath raises, not all of it its own errors (which are ValueErrors): `[::0]`, `floor()` of a number too large.
CANNOT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
# What JMESPath puts around texts, names and JSON.
QUOTES = "'\"`"


class TemplateError(ValueError):
    """Raised when a text is no expression or no template: *found* at the character number *at*, from 1 on."""

    def __init__(self, at: int, found: str) -> None:
        self.at = at
        self.found = found
        super().__init__(f"at character {at}: {found}")


def event_from(envelope: Envelope) -> dict[str, Any]:
    """Return *envelope* as users see it (docs/events.md), parsed: RingCentral's fields and `rcPush`."""
    return {
        **envelope.fields,
        "rcPush": {
            "position": envelope.position,
            "receivedAt": iso_from_ms(envelope.received_at_ms),
            "account": envelope.account,
            "subscription": envelope.subscription,
            "transport": envelope.transport,
            "origin": envelope.origin,
            "type": envelope.type,
        },
    }


class Expression:
    """A JMESPath expression, compiled once. Raises TemplateError where *text* is none.

    What JMESPath itself would find only when it meets an event, functions that do not exist or take another number of
    arguments, is found here.
    """

    def __init__(self, text: str) -> None:
        from jmespath.visitor import TreeInterpreter  # noqa: PLC0415 - see the top

        if not text.strip():
            raise TemplateError(1, "there is no expression")
        self.text = text
        self._tree = _tree_from(text)
        self._interpreter = TreeInterpreter()
        for mistake in _wrong_calls(self._tree):
            raise TemplateError(1, mistake)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def search(self, event: Mapping[str, Any]) -> Any:
        """Return what the expression finds in *event* (of `event_from`).

        None where there is nothing, where a function is given what it cannot take, or where it is nested too deeply.
        """
        try:
            return self._interpreter.visit(self._tree, event)
        except (*CANNOT, RecursionError):
            return None


class Template:
    """A text with `{expression}` in it, compiled once; `{{` and `}}` are braces. Raises TemplateError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = [part for part in map(_part, _pieces(text)) if part != ""]

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def beginning(self) -> str:
        """The text before the first expression; where there is none, all of it."""
        first = self._parts[0] if self._parts else ""
        return first if isinstance(first, str) else ""

    @property
    def ending(self) -> str:
        """The text after the last expression; where there is none, all of it."""
        last = self._parts[-1] if self._parts else ""
        return last if isinstance(last, str) else ""

    @property
    def is_constant(self) -> bool:
        """Say whether it is the same for every event."""
        return all(isinstance(part, str) for part in self._parts)

    def render(self, envelope: Envelope, escape: Callable[[str], str] | None = None) -> str:
        """Return the text for *envelope*, as valid Unicode; each value has gone through *escape* where one is given."""
        event: dict[str, Any] | None = None
        rendered = []
        for part in self._parts:
            if isinstance(part, str):
                rendered.append(part)
                continue
            if isinstance(part, Expression):
                event = event_from(envelope) if event is None else event
                value = text_from(part.search(event))
            else:
                value = part(envelope)
            rendered.append(escape(value) if escape else value)
        return "".join(rendered)


class PathTemplate:
    """An absolute path with `{expression}` in it. No event can lead it out of the folders that its own text names.

    Raises TemplateError, or ValueError where it is not absolute.
    """

    def __init__(self, text: str) -> None:
        if not text.startswith("/") or "\0" in text:
            raise ValueError("not an absolute path")
        self._template = Template(text)
        self._ending = self._template.ending.rpartition("/")[2]

    def __repr__(self) -> str:
        return f"PathTemplate({self._template.text!r})"

    def __str__(self) -> str:
        return self._template.text

    @property
    def constant(self) -> Path | None:
        """The path where it is the same for every event, else None."""
        return Path(self._template.beginning) if self._template.is_constant else None

    @property
    def folder(self) -> Path:
        """The folder that all paths are in, as far as it does not depend on the event."""
        return Path(self._template.beginning.rpartition("/")[0] or "/")

    def render(self, envelope: Envelope) -> str:
        """Return the path for *envelope*; each value is a part of one name in it, see `name_from`.

        No name is too long for a file: what the template ends with stays, what is before it is cut.
        """
        path = self._template.render(envelope, escape=name_from)
        if len(path.encode()) <= LAST_NAME_MAX_BYTES:
            return path
        folder, _, name = path.rpartition("/")
        folders = "/".join(_cut(one, NAME_MAX_BYTES) for one in folder.split("/"))
        room = LAST_NAME_MAX_BYTES - len(self._ending.encode())
        return f"{folders}/{_cut(name.removesuffix(self._ending), room)}{self._ending}"


def name_from(value: str) -> str:
    """Return *value* as a part of a file's name: neither empty nor long, nor what would name another folder."""
    name = _cut(value.replace("/", "_"), VALUE_MAX_BYTES)
    if not name.isprintable():
        name = "".join(char if char.isprintable() else "_" for char in name)
    return "_" + name[1:] if name[:1] in {"", "."} else name


def _cut(name: str, max_bytes: int) -> str:
    return name.encode()[: max(0, max_bytes)].decode(errors="ignore")


def text_from(value: Any) -> str:
    """Return *value*, which is JSON, as a text: nothing for null, texts as they are, everything else as JSON.

    Nothing, too, for what Python writes no text of: a number of more than 4300 digits, or what is nested too deeply.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # halves of emojis
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return ""
    return text.encode(errors="replace").decode()


# ------------------------------------------------------------------------------------------------------------- reading


def _tree_from(text: str) -> Any:
    import jmespath  # noqa: PLC0415 - see the top
    from jmespath.exceptions import ParseError  # noqa: PLC0415 - see the top

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old way to write texts, which works
            return jmespath.compile(text).parsed
    except ParseError as exc:
        raise TemplateError(exc.lex_position + 1, _reason(exc)) from None
    except CANNOT:  # a number without end, `(`
        raise TemplateError(1, f"{short(text)} is no JMESPath expression") from None
    except RecursionError:
        raise TemplateError(1, "nested too deeply") from None


_Part = str | Expression | Callable[[Envelope], str]


def _pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the pieces of *text*: where each begins, what it says, and whether it is an expression."""
    at, plain = 0, ""
    while at < len(text):
        if text[at : at + 2] in {"{{", "}}"}:
            plain += text[at]
            at += 2
        elif text[at] == "}":
            raise TemplateError(at + 1, "a } that closes nothing; write }} for the character")
        elif text[at] == "{":
            yield at, plain, False
            end = _end_of_expression(text, at)
            yield at + 1, text[at + 1 : end], True
            at, plain = end + 1, ""
        else:
            plain += text[at]
            at += 1
    yield at, plain, False


def _end_of_expression(text: str, start: int) -> int:
    """Return where the brace at *start* is closed; braces in texts and in hashes of the expression do not count."""
    depth, at = 0, start
    while at < len(text):
        if text[at] in QUOTES:
            at = _end_of_quoted(text, at)
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        at += 1
    raise TemplateError(start + 1, "a { that is never closed; write {{ for the character")


def _end_of_quoted(text: str, start: int) -> int:
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" else 1
    return at


def _part(piece: tuple[int, str, bool]) -> _Part:
    at, text, is_expression = piece
    if not is_expression:
        return text
    if short_name := SHORT_NAMES.get(text.strip()):
        return short_name
    try:
        return Expression(text)
    except TemplateError as exc:
        raise TemplateError(at + exc.at, exc.found) from None


def _reason(exc: Any) -> str:
    """Return what is wrong in the words of a sentence; JMESPath's own draw a picture of several lines."""
    if exc.token_value is None:
        return "it ends too early"
    if exc.token_value == "":
        return "something is missing at its end"
    return f"{short(str(exc.token_value))} makes no sense here"


def _wrong_calls(node: Any) -> Iterator[str]:
    """Yield what is wrong with the functions that *node* calls."""
    from jmespath.functions import Functions  # noqa: PLC0415 - see the top

    waiting = [(node, False)]
    while waiting:
        node, may_be_reference = waiting.pop()
        if not isinstance(node, dict):  # numbers of a slice
            continue
        children = node.get("children", [])
        is_call = node.get("type") == "function_expression"
        known = Functions.FUNCTION_TABLE.get(node["value"]) if is_call else None
        waiting += reversed([(child, _takes_reference(known, at)) for at, child in enumerate(children)])
        if node.get("type") == "expref" and not may_be_reference:
            yield "& belongs before what sort_by, min_by, max_by and map take"
        if not is_call:
            continue
        if known is None:
            yield f"there is no function {short(node['value'])}; there are: {listed(sorted(Functions.FUNCTION_TABLE))}"
            continue
        wanted = known["signature"]
        is_variadic = bool(wanted and wanted[-1].get("variadic"))
        if len(children) < len(wanted) or (len(children) > len(wanted) and not is_variadic):
            least = "at least " if is_variadic else ""
            plural = "" if len(wanted) == 1 else "s"
            yield f"{node['value']}() takes {least}{len(wanted)} argument{plural}, not {len(children)}"


def _takes_reference(function: Any, at: int) -> bool:
    """Say whether the argument *at* of *function* is an expression, `&…`, and no value."""
    wanted = function["signature"] if function else []
    return at < len(wanted) and "expref" in wanted[at].get("types", [])
