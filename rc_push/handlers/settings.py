"""What does a plug-in want to know? A handler's own settings, checked against what it declares.

Knows msgspec's structures and the table from the file; knows nothing of handlers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import FieldInfo

from rc_push.config import HandlerConfig
from rc_push.errors import ConfigError, Problem

Settings = TypeVar("Settings", bound=msgspec.Struct)

# What the daemon itself reads of the table: a misspelled one arrives here as an unknown setting.
_SHARED = tuple(name for name in HandlerConfig.__struct_fields__ if name not in {"name", "settings"})


def settings_from_table(declared: type[Settings], config: HandlerConfig) -> Settings:
    """Return the settings in *config* as the structure that the plug-in has *declared*.

    A setting of type Path has to be absolute: a daemon's working directory is nobody's choice. Messages tell types and
    names, not values, which may be secrets. Raises ConfigError with every mistake.
    """
    key = f"handlers.{config.name}"
    fields = {field.encode_name: field for field in msgspec.structs.fields(declared)}
    if problems := list(_problems(key, fields, config.settings)):
        raise ConfigError(problems)
    try:
        return msgspec.convert(config.settings, declared, dec_hook=_convert_path)
    except msgspec.ValidationError as exc:  # the plug-in's own __post_init__
        raise ConfigError([Problem(key, str(exc), f"see the settings of {config.use!r}")]) from None


def _problems(key: str, fields: dict[str, FieldInfo], table: dict[str, object]) -> Iterator[Problem]:
    for name, value in table.items():
        if name not in fields:
            yield Problem(f"{key}.{name}", "unknown setting", _nearest(name, fields))
        elif mistake := _mistake(value, fields[name].type):
            yield Problem(f"{key}.{name}", mistake, f"it means: {_description(fields[name])}")
    for name, field in fields.items():
        if field.required and name not in table:
            yield Problem(f"{key}.{name}", "missing", f"add it: {_description(field)}")


def _mistake(value: object, type_: Any) -> str:
    """Return what is wrong with *value*, empty where nothing is."""
    try:
        msgspec.convert(value, type_, dec_hook=_convert_path)
    except msgspec.ValidationError as exc:
        text = str(exc)
        return text[0].lower() + text[1:]
    return ""


def _convert_path(type_: type, value: object) -> Path:
    if type_ is not Path:
        raise NotImplementedError(f"a setting cannot be of the type {type_.__name__}")
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
