"""What does a plug-in want to know? A handler's own settings, checked against what it declares.

Knows msgspec's structures, the table from the file and where secrets may be; knows nothing of handlers.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import FieldInfo

from rc_push.config import FOUND_IN_FILE, SOURCES_REMEDY, HandlerConfig, Mistake, Secret, secret_from
from rc_push.errors import ConfigError, Problem
from rc_push.templates import PathTemplate, Template

Settings = TypeVar("Settings", bound=msgspec.Struct)

# What the daemon itself reads of the table: a misspelled one arrives here as an unknown setting.
_SHARED = tuple(name for name in HandlerConfig.__struct_fields__ if name not in {"name", "settings"})


def settings_from_table(
    declared: type[Settings], config: HandlerConfig, environ: Mapping[str, str] = os.environ
) -> tuple[Settings, list[Problem]]:
    """Return the settings in *config* as the structure that the plug-in has *declared*, and the warnings.

    A setting of type Path has to be absolute: a daemon's working directory is nobody's choice. One of type Secret says
    where it is, as the secrets of accounts do; a Template or PathTemplate is compiled. Messages tell types and names,
    not values, which may be secrets. Raises ConfigError with every mistake.
    """
    key = f"handlers.{config.name}"
    fields = {field.encode_name: field for field in msgspec.structs.fields(declared)}
    problems = list(_problems(key, fields, config.settings, environ))
    if not all(problem.warning for problem in problems):
        raise ConfigError(problems)
    try:
        return msgspec.convert(config.settings, declared, dec_hook=_Types(environ)), problems
    except msgspec.ValidationError as exc:  # the plug-in's own __post_init__
        raise ConfigError([problem_from(str(exc), config, fields)]) from None


def problem_from(text: str, config: HandlerConfig, names: Container[str], otherwise: str = "") -> Problem:
    """Return what *text*, `what; the remedy`, tells of a handler: of the setting in *names* with which it begins.

    Where it has no remedy, that is *otherwise*.
    """
    key = f"handlers.{config.name}"
    found, _, remedy = text.removeprefix(f"{key}: ").partition("; ")
    first = re.match(r"\w+", found)
    if first and first[0] in names:
        key = f"{key}.{first[0]}"
        found = found.removeprefix(f"{first[0]}: ")
    return Problem(key, found, remedy or otherwise or f"see the settings of {config.use!r}")


def _problems(
    key: str, fields: dict[str, FieldInfo], table: dict[str, object], environ: Mapping[str, str]
) -> Iterator[Problem]:
    for name, value in table.items():
        if name not in fields:
            yield Problem(f"{key}.{name}", "unknown setting", _nearest(name, fields))
        else:
            yield from _problems_of_one(f"{key}.{name}", fields[name], value, environ)
    for name, field in fields.items():
        if field.required and name not in table:
            yield Problem(f"{key}.{name}", "missing", f"add it: {_description(field)}")


def _problems_of_one(key: str, field: FieldInfo, value: object, environ: Mapping[str, str]) -> Iterator[Problem]:
    types = _Types(environ)
    try:
        msgspec.convert(value, field.type, dec_hook=types)
    except msgspec.ValidationError as exc:
        text = str(exc)
        yield Problem(key, text[0].lower() + text[1:], f"it means: {_description(field)}")
    except Mistake as mistake:
        yield Problem(key, mistake.found, mistake.remedy)
    if types.has_secret_in_file:
        yield Problem(key, FOUND_IN_FILE, f"better: {SOURCES_REMEDY}", warning=True)


class _Types:
    """Makes values of the types that TOML has not; notes whether one was a secret in the file itself."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.has_secret_in_file = False

    def __call__(self, type_: type, value: object) -> Any:
        if type_ is Path:
            return _path_from(value)
        if type_ is Secret:
            secret = secret_from(value, self._environ)
            self.has_secret_in_file |= isinstance(value, str)
            return secret
        if type_ is PathTemplate:
            return PathTemplate(value if isinstance(value, str) else "")
        if type_ is Template:
            return _template_from(value)
        # what msgspec asks of its dec_hook for a type that it does not know
        raise NotImplementedError(f"a setting cannot be of the type {type_.__name__}")


def _template_from(value: object) -> Template:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 - msgspec makes mistakes of these alone
    return Template(value)


def _path_from(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("not an absolute path")
    return Path(value)


def _nearest(name: str, fields: dict[str, FieldInfo]) -> str:
    """Return the remedy for an unknown *name*."""
    if nearest := difflib.get_close_matches(name, (*fields, *_SHARED), 1):
        return f"did you mean {nearest[0]!r}?"
    return f"there are: {', '.join(fields)}" if fields else "remove it: this handler has no settings"


def _description(field: FieldInfo) -> str:
    for part in getattr(field.type, "__metadata__", ()):
        if isinstance(part, msgspec.Meta) and part.description:
            return part.description
    bare = getattr(field.type, "__origin__", field.type) if hasattr(field.type, "__metadata__") else field.type
    return getattr(bare, "__name__", str(bare))
