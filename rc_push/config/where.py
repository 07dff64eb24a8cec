"""What does a `where` mean? JMESPath over an event: compiled, and looked at for what cannot be meant.

Knows JMESPath and the names of an event's keys; knows no events. jmespath is imported by the first expression.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from rc_push.config.values import Mistake
from rc_push.config.words import nearest, short

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

# An event as users see it: RingCentral's keys and ours.
EVENT_KEYS = ("uuid", "event", "timestamp", "subscriptionId", "ownerId", "body", "rcPush")
RC_PUSH_KEYS = ("position", "receivedAt", "account", "subscription", "transport", "origin", "type")
# Each level takes two of Python's 1000 frames when it is evaluated. `a || b || c` is two levels deep.
DEPTH_MAX = 300

Search = Callable[[Any], Any]
# What an expression gives: a test gives true, false or null, a text, number, list or object is "never" true.
Kind = Literal["test", "any", "never"]

_REMEDY = "texts stand in 'single quotes', numbers and true, false, null in `backticks`"
_TESTS = ("contains", "starts_with", "ends_with")
_NEVER = (
    *("abs", "avg", "ceil", "floor", "join", "keys", "length", "map", "max", "max_by", "merge", "min", "min_by"),
    *("reverse", "sort", "sort_by", "sum", "to_array", "to_number", "to_string", "type", "values"),
)
# Nodes of which only the first child sees the whole event; the others see what comes out of it.
_CHAINS = ("subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection")


def compile_where(text: str) -> Search:
    """Return the function that gives the value of the JMESPath expression *text* for an event. Raises Mistake."""
    from jmespath.visitor import TreeInterpreter  # noqa: PLC0415 - a file without `where` does not pay for it

    tree = _parse(text).parsed
    interpreter = TreeInterpreter()  # one for all events: `search` makes a new one for each
    return lambda event: interpreter.visit(tree, event)


def check_where(text: str) -> None:
    """Raise Mistake where *text* is no JMESPath expression, or one that fails for every event."""
    for mistake in _mistakes_in_calls(_parse(text).parsed):
        raise mistake


def look_at_where(text: str) -> Iterator[tuple[Mistake, bool]]:
    """Yield what is wrong with the JMESPath expression *text*, and of each whether it is only a doubt."""
    try:
        tree = _parse(text).parsed
    except Mistake as mistake:
        yield mistake, False
        return
    mistakes = [*_mistakes_in_calls(tree), *_mistakes_in_negations(tree)]
    yield from ((mistake, False) for mistake in mistakes)
    yield from _strangers(tree, text)
    kind = _kind(tree)
    if kind == "never":
        yield Mistake(f"{short(text)} can never be true", "compare it with something: ==, !=, contains(…)"), False
    elif kind == "any" and not mistakes:
        found = f"{short(text)} may give something else than true or false, and only true is a yes"
        yield Mistake(found, "if it can, compare: body.attachments != `null`, body.isPublic == `true`"), True


def _parse(text: str) -> ParsedResult:
    import jmespath  # noqa: PLC0415 - a file without `where` does not pay for it
    from jmespath.exceptions import JMESPathError, ParseError  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old way to write texts, which works
            expression = jmespath.compile(text)
        depth = _depth(expression.parsed)
    except ParseError as exc:
        remedy = "compare with ==" if getattr(exc, "lexer_value", None) == "=" else _REMEDY
        raise Mistake(f"{short(text)} is no JMESPath expression: {_parse_error(exc)}", remedy) from None
    except (JMESPathError, ValueError, LookupError, TypeError, AttributeError):  # a number without end, `(`
        raise Mistake(f"{short(text)} is no JMESPath expression", _REMEDY) from None
    except RecursionError:
        depth = DEPTH_MAX + 1
    if depth > DEPTH_MAX:
        remedy = 'a list is shorter: contains(`["1", "2"]`, body.groupId)'
        raise Mistake(f"{short(text)} is nested deeper than {DEPTH_MAX} levels", remedy)
    return expression


def _parse_error(exc: Any) -> str:
    """Return what jmespath found, on one line: its own texts draw a picture."""
    if exc.token_type in {None, "EOF"}:
        return "it ends too early"
    what = exc.message if hasattr(exc, "lexer_value") else f"unexpected {exc.token_value}"
    return f"{short(what)} at character {exc.lex_position + 1}"


# ------------------------------------------------------------------------------------------------------------ the tree
# A node of jmespath's: {"type": "field", "value": "body", "children": []}


def _children(node: Any) -> list[Any]:
    return [child for child in node["children"] if isinstance(child, dict)]  # those of a slice are numbers


def _depth(tree: Any) -> int:
    level, depth = [tree], 0
    while level:
        level, depth = [child for node in level for child in _children(node)], depth + 1
    return depth


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _nodes_at_top(node: Any) -> Iterator[Any]:
    """Yield the nodes that are evaluated for the whole event, not for a part of it."""
    yield node
    if node["type"] != "expref":
        for child in _children(node)[: 1 if node["type"] in _CHAINS else None]:
            yield from _nodes_at_top(child)


def _mistakes_in_calls(tree: Any) -> Iterator[Mistake]:
    """Yield calls that fail for every event: jmespath itself tells only when it evaluates them."""
    from jmespath.functions import Functions  # noqa: PLC0415 - a file without `where` does not pay for it

    known = Functions.FUNCTION_TABLE
    for node in _nodes(tree):
        if node["type"] != "function_expression":
            continue
        name, given = node["value"], len(node["children"])
        if name not in known:
            yield Mistake(f"there is no function {short(name)}", nearest(name, list(known)))
            continue
        signature = known[name]["signature"]
        is_open = bool(signature) and bool(signature[-1].get("variadic"))
        if given < len(signature) or (given > len(signature) and not is_open):
            at_least = "at least " if is_open else ""
            yield Mistake(f"{name}() with {given} arguments", f"give it {at_least}{len(signature)}")


def _mistakes_in_negations(tree: Any) -> Iterator[Mistake]:
    """Yield `!body.isPublic`, which asks for a key of `!body`: in jmespath, ! binds closer than the dot."""
    for node in _nodes(tree):
        if node["type"] in ("subexpression", "index_expression") and node["children"][0]["type"] == "not_expression":
            yield Mistake("a ! belongs to the first name behind it alone", "write it so: !(body.isPublic)")


def _strangers(tree: Any, text: str) -> Iterator[tuple[Mistake, bool]]:
    """Yield the keys that an event does not have. Ours are known; RingCentral may add to its own."""
    names = {node["value"]: None for node in _nodes_at_top(tree) if node["type"] == "field"}
    for name in names:
        if name not in EVENT_KEYS:
            found = f"an event has no {short(name)}, unless RingCentral has added it"
            yield Mistake(found, _remedy_for_key(name, text)), True
    for node in _nodes_at_top(tree):
        if node["type"] == "subexpression" and _is_field(node["children"][0], "rcPush"):
            name = node["children"][1].get("value")
            if _is_field(node["children"][1], name) and name not in RC_PUSH_KEYS:
                yield Mistake(f"there is no {short(f'rcPush.{name}')}", nearest(name, list(RC_PUSH_KEYS))), False


def _is_field(node: Any, name: str) -> bool:
    return bool(node["type"] == "field" and node["value"] == name)


def _remedy_for_key(name: str, text: str) -> str:
    if name in {"true", "false", "null"}:
        return f"write `{name}` in backticks"
    if f'"{name}"' in text:
        return f"double quotes name a key; write a text in single quotes: '{name}'"
    return f"did you mean {'rcPush' if name in RC_PUSH_KEYS else 'body'}.{name}?"


def _kind(node: Any) -> Kind:
    """Return what *node* can give."""
    children = _children(node)
    match node["type"]:
        case "comparator" | "not_expression":
            return "test"
        case "literal":
            return "test" if node["value"] is True else "never"
        case "function_expression":
            return "test" if node["value"] in _TESTS else "never" if node["value"] in _NEVER else "any"
        case "subexpression" if _is_field(children[0], "rcPush") and children[-1]["type"] == "field":
            return "never"
        case "and_expression" | "pipe" | "subexpression":
            return _kind(children[-1])
        case "or_expression":  # gives its left side unless that is empty, whatever it is
            kinds = {_kind(child) for child in children}
            return kinds.pop() if len(kinds) == 1 else "any"
        case "field" | "index" | "index_expression" | "current" | "identity":
            return "any"
        case _:
            return "never"
