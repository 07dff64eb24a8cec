"""What does rc-push tell its operator? Log lines for people or machines, without secrets.

Knows how lines look and what must not stand in them; knows nothing of what is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rc_push.config import LogConfig
from rc_push.terminal import unobeyed, unobeyed_json

HIDDEN = "***"
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
# What a line begins with, so that journald knows its priority. Source: sd-daemon(3).
PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
UNCOLOURED = "\x1b[0m"
# What is nested deeper is told as text.
DEPTH_MAX = 8
# Of one value. Whatever a plug-in puts into an exception, the loop waits while it is searched for secrets.
VALUE_MAX_LENGTH = 64 << 10

# A timetoken of PubNub's is a position, and wsc a word of its own only.
_SECRET_NAME = (
    r"(?:authorization|(?<!time)token|secret|jwt|assertion"  # noqa: S105 - a name
    r"|password|cookie|credential|(?<![a-z])wsc(?![a-z]))"
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
# Names have bounds, and a JWT is looked for once in a word: else a hostile text takes the square of its length.
_SECRETS = (
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(rf"({_SECRET_NAME}\w{{0,64}})(=|%3D)[^\s&\"',;)]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(rf"({_SECRET_NAME}[\w-]{{0,64}}\\?[\"']\s*:\s*b?\\?[\"'])[^\"'\\]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # a JWT, wherever it stands
    (re.compile(r"(?<![\w-])(?=[\w-]+\.[\w-])([\w-]*?)\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"), rf"\1{HIDDEN}"),
    (re.compile(r"(\w://)[^\s/@]+@"), rf"\1{HIDDEN}@"),  # a URL's user name and password
)
_BARE = re.compile(r"[^\s\"'=\\]+")


def configure(config: LogConfig, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Log to *stream* (stderr) from now on, as *config* says. What libraries log comes along, from warnings upwards.

    Loggers are not cached, so that a further call changes all of them.
    """
    out = stream or sys.stderr
    on_terminal = out.isatty()
    as_text = config.format == "text" or (config.format == "auto" and on_terminal)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_time_and_level,
        structlog.processors.format_exc_info,
        redact_fields,
        _text_renderer(colours=on_terminal and not environ.get("NO_COLOR")) if as_text else _json_line,
    ]
    if _is_journal(out, environ):
        processors.append(_add_priority)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[config.level]),
        logger_factory=lambda *_: _Output(out),
        cache_logger_on_first_use=False,
    )
    _take_over_stdlib()


def redact(text: str) -> str:
    """Return *text* without the secrets in it: authorization headers, tokens in URLs, forms and JSON, JWTs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def redact_fields(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    """Hide the values of fields that are named like secrets, and the secrets inside of all others (a processor)."""
    return {name: _redacted(name, value, DEPTH_MAX) for name, value in fields.items()}


def _redacted(name: str, value: Any, depth: int) -> Any:
    """Return *value* as plain data without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(name):
        return HIDDEN
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping) and depth:
        return {str(key): _redacted(str(key), item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth:
        return [_redacted("", item, depth - 1) for item in value]
    return redact(_bounded(str(value))).encode("utf-8", "backslashreplace").decode()  # a lone surrogate stays unwritten


def _bounded(text: str) -> str:
    """Return *text*, or its beginning. What the cut divides is left out: half of a secret is not known as one."""
    if len(text) <= VALUE_MAX_LENGTH:
        return text
    *kept_or_none, _ = text[:VALUE_MAX_LENGTH].rsplit(None, 1) or [""]
    kept = "".join(kept_or_none)
    return f"{kept}[… {len(text) - len(kept)} characters left out …]"


def _add_time_and_level(_logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": method, **fields}


# ----------------------------------------------------------------------------------------------------------- renderers


def _json_line(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    return unobeyed_json(msgspec.json.encode(fields).decode())


def _text_renderer(*, colours: bool) -> Callable[[WrappedLogger, str, EventDict], str]:
    def render(_logger: WrappedLogger, method: str, fields: EventDict) -> str:
        """Return `2026-11-23T10:00:00.190Z info     the message  key=value`, a traceback indented below."""
        time, level, event = fields.pop("timestamp"), fields.pop("level"), fields.pop("event", "")
        trace = str(fields.pop("exception", "")).splitlines()
        coloured = f"{COLOURS[method]}{level:<8}{UNCOLOURED}" if colours else f"{level:<8}"
        values = "".join(f"  {unobeyed(name)}={_shown(value)}" for name, value in fields.items())
        return "\n    ".join([f"{time} {coloured} {unobeyed(str(event))}{values}", *map(unobeyed, trace)])

    return render


def _shown(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value):
        return unobeyed(value)
    return unobeyed(msgspec.json.encode(value).decode())


def _add_priority(_logger: WrappedLogger, method: str, text: Any) -> str:
    return "\n".join(PRIORITIES[method] + line for line in str(text).split("\n"))


# -------------------------------------------------------------------------------------------------------------- outputs


class _Output:
    """Writes one line at a time. That nobody reads it is no reason to stop the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _Stdlib(logging.Handler):
    """Hands what libraries log through the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # the library's own mistake; its message is still worth something
            message = str(record.msg)
        level = max(level for level in LEVELS.values() if level <= record.levelno)
        structlog.get_logger().log(level, message, logger=record.name, exc_info=record.exc_info)


def _take_over_stdlib() -> None:
    """Send warnings and worse of all libraries through structlog, once each.

    Not uvicorn's warnings: each is of a request, so whoever can connect could fill the log.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stdlib)]:
        root.removeHandler(handler)
    root.addHandler(_Stdlib(logging.WARNING))
    for name in ("websockets", "uvicorn", "uvicorn.error", "uvicorn.access", "urllib3"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.ERROR if name == "uvicorn.error" else logging.WARNING)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Say whether journald reads *stream*; children inherit the variable, so it alone proves nothing.

    Source: systemd.exec(5), $JOURNAL_STREAM.
    """
    try:
        about = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"
