"""The command that lists the handlers that are installed: from where, with their settings and help."""

from __future__ import annotations

import inspect
import json
import traceback
import typing
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

import click
import msgspec

from rc_push.cli.journal import json_option
from rc_push.errors import EXIT_CONFIG, EXIT_OK
from rc_push.terminal import printable


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a plug-in, as it declares it. *default* is None where it has to be given."""

    name: str
    type: str
    default: str | None
    help: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point: what `use` names, where it comes from, and what it is; *error* where it cannot be loaded."""

    name: str
    package: str
    object: str
    help: str = ""
    settings: tuple[Setting, ...] = ()
    error: str = ""
    trace: str = field(default="", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `plugins --json` prints."""
        names = ("name", "package", "object", "help", "error")
        settings = [{name: getattr(s, name) for name in ("name", "type", "default", "help")} for s in self.settings]
        return {**{name: getattr(self, name) for name in names}, "settings": settings}


@click.command()
@click.argument("name", required=False)
@json_option
def plugins(name: str | None, *, as_json: bool) -> int:
    """List the handlers that are installed, or show the settings of NAME."""
    from rc_push.handlers import GROUP

    found = [_plugin(point) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]
    shown = [plugin for plugin in found if name in (None, plugin.name)]
    for plugin in shown:
        click.echo(json.dumps(plugin.to_dict()) if as_json else "\n".join(_lines(plugin, whole=name is not None)))
    if not shown:
        click.echo(f"no handler {printable(name or '')} is installed; see rc-push plugins", err=True)
    return EXIT_CONFIG if not shown or any(plugin.error for plugin in shown) else EXIT_OK


def _plugin(point: EntryPoint) -> Plugin:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    try:
        loaded = point.load()
        settings = tuple(_settings(getattr(loaded, "Settings", None)) if inspect.isclass(loaded) else ())
    except KeyboardInterrupt:  # the user's Ctrl-C
        raise
    except BaseException as exc:  # noqa: BLE001 - foreign code can raise anything; it is told
        error = traceback.format_exception_only(exc)[-1].strip()
        return Plugin(point.name, package, point.value, error=error, trace=traceback.format_exc())
    return Plugin(point.name, package, point.value, (inspect.getdoc(loaded) or "").partition("\n")[0], settings)


def _settings(declared: type[msgspec.Struct] | None) -> list[Setting]:
    if declared is None:
        return []
    return [_setting(known) for known in msgspec.structs.fields(declared)]


def _setting(known: msgspec.structs.FieldInfo) -> Setting:
    metas = [part for part in getattr(known.type, "__metadata__", ()) if isinstance(part, msgspec.Meta)]
    bare = getattr(known.type, "__origin__", known.type) if metas else known.type
    default = None
    if known.default_factory is not msgspec.NODEFAULT:
        default = str(known.default_factory())
    elif known.default is not msgspec.NODEFAULT:
        default = str(known.default)
    help_ = next((meta.description for meta in metas if meta.description), "")
    return Setting(known.encode_name, _type_for_people(bare), default, help_)


def _type_for_people(type_: Any) -> str:
    """Return the values of a choice, else names without their modules; that it may be None, the default says."""
    arguments, origin = typing.get_args(type_), typing.get_origin(type_)
    if origin is Annotated:
        return _type_for_people(arguments[0])
    if origin is Literal:
        return " or ".join(map(json.dumps, arguments))
    inner = [_type_for_people(part) for part in arguments if part not in (NoneType, Ellipsis)]
    if origin in (Union, UnionType):
        return " or ".join(inner)
    name = getattr(origin or type_, "__name__", str(type_))
    return f"{name} of {', '.join(inner)}" if inner else name


def _lines(plugin: Plugin, *, whole: bool) -> list[str]:
    head = f"{plugin.name:<12} {click.style(plugin.package, fg='cyan')}  {plugin.object}"
    if plugin.error:
        lines = [head, click.style(f"  cannot be loaded: {printable(plugin.error)}", fg="red")]
        return lines + [f"  {printable(line)}" for line in plugin.trace.splitlines()]
    lines = [head, *([f"  {printable(plugin.help)}"] if plugin.help else [])]
    if whole:
        for setting in plugin.settings:
            default = {None: "needed", "None": "optional"}.get(setting.default, f"default {setting.default}")
            lines.append(f"  {setting.name:<22} {setting.type}, {default}: {printable(setting.help)}")
    elif plugin.settings:
        lines.append(f"  settings: {', '.join(setting.name for setting in plugin.settings)}")
    return lines
