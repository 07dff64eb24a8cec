"""What does one value of the file say? Knows the sources of secrets and their rules; knows no tables."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from rc_push.config.settings import Option, Secret
from rc_push.config.words import found, kind_of

SOURCES_REMEDY = '{ env = "NAME" }, { file = "/path" } or { credential = "name" }'
FOUND_IN_FILE = "a secret in the file itself"
SECRET_MAX_BYTES = 64 << 10
PORT_MAX = 65535


class Mistake(Exception):
    """Raised when a value is wrong: what was found, and the remedy."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found = found
        self.remedy = remedy


def plain_value(option: Option, raw: Any) -> Any:
    """Return *raw* as the type of *option*. Raises Mistake."""
    wrong = Mistake(found(raw), f"write {option.expected}")
    try:
        value = msgspec.convert(raw, option.type, dec_hook=_path_from)
    except msgspec.ValidationError:
        raise wrong from None
    in_bounds = option.low is None or option.high is None or option.low <= value <= option.high
    if raw == "":
        raise Mistake("it is empty", f"write {option.expected} that is not")
    if not in_bounds or (isinstance(raw, list) and "" in raw):
        raise wrong
    return value


def _path_from(_: type, raw: Any) -> Path:
    if not isinstance(raw, str) or not raw.startswith("/") or not raw.isprintable():
        raise ValueError("no absolute path: a daemon's working directory is nobody's choice")
    return Path(raw)


def secret_from(raw: Any, environ: Mapping[str, str]) -> Secret:
    """Return the secret that *raw* is, as a text, or names as `text_from_source` takes it. Raises Mistake."""
    return Secret(one_line(raw) if isinstance(raw, str) else text_from_source(raw, environ))


def text_from_source(raw: Any, environ: Mapping[str, str]) -> str:
    """Return the text that *raw*, `{env=}`, `{file=}` or `{credential=}`, names. Raises Mistake without the text."""
    source, name = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else ("", None)
    if not isinstance(name, str) or source not in ("env", "file", "credential"):
        raise Mistake(kind_of(raw), f"write {SOURCES_REMEDY}")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if source == "env":
        if name not in environ:
            raise Mistake(f"the environment variable {_name_shown(name)} is not set", "set it, or name another source")
        return one_line(environ[name])
    if source == "file" and name.startswith("/"):
        return one_line(_text_from_file(Path(name), _name_shown(name), directory))
    if source == "file":
        raise Mistake("no absolute path", "name the file with its directories, beginning with /")
    if not directory:
        raise Mistake(
            "$CREDENTIALS_DIRECTORY is not set", "run it under systemd with LoadCredential=, or use { file = … }"
        )
    if name in ("", ".", "..") or "/" in name:
        raise Mistake("no name of a credential", "name one of systemd's LoadCredential=, without a directory")
    return one_line(_text_from_file(Path(directory, name), _name_shown(name), directory))


def _text_from_file(path: Path, shown: str, credentials: str | None) -> str:
    try:
        # Without O_NONBLOCK, a named pipe would stop us for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(SECRET_MAX_BYTES) if stat.S_ISREG(mode) else b""
        private = not mode & 0o077 or (credentials and path.resolve().is_relative_to(Path(credentials).resolve()))
    except (OSError, ValueError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "no path"
        raise Mistake(f"{shown} cannot be read: {reason}", "put the secret there, readable by this user only") from None
    if not stat.S_ISREG(mode):
        raise Mistake(f"{shown} is no file", "name a file that holds the secret alone")
    if not private:
        raise Mistake(f"{shown} can be read by others (mode {mode & 0o777:04o})", f"chmod 600 {shlex.quote(shown)}")
    return content.decode("utf-8", "replace")


def one_line(text: str) -> str:
    """Return the secret in *text*, without the newline that editors add. Raises Mistake where it is no secret."""
    text = text.rstrip("\r\n")
    if not text:
        raise Mistake("it is empty", "put the secret there")
    if not (text.isascii() and text.isprintable() and len(text) < SECRET_MAX_BYTES):
        raise Mistake("it is not one line of plain text", "put the secret there, and nothing else")
    return text


def _name_shown(name: str) -> str:
    """Return *name*, unless it may be the secret itself, put in place of its name."""
    is_name = re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}|[a-z][a-z0-9._-]{0,31}|/[\w ./@-]{0,255}", name)
    return name if is_name else "(named there)"


def split_url(url: str) -> SplitResult | None:
    """Return the parts of *url*; None where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts if url.isascii() and url.isprintable() else None


def is_server(url: str) -> bool:
    """Say whether *url* can be RingCentral's address: https, or a loopback address."""
    parts = split_url(url)
    if parts is None or not parts.hostname or parts.username is not None or parts.path.strip("/") or parts.query:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))


def is_origin(text: str) -> bool:
    """Say whether *text* is host[:port], nothing else."""
    parts = split_url(f"//{text}")
    return parts is not None and bool(parts.hostname) and parts.netloc == text and "@" not in text


def split_address(text: str) -> str | None:
    """Return the host in `127.0.0.1:9464` or `[::1]:9464`; None where *text* is no address with a port."""
    found = re.fullmatch(r"\[([\da-fA-F:.]+)\]:(\d{1,5})|([\d.]+|localhost):(\d{1,5})", text, re.ASCII)
    if not found or int(found[2] or found[4]) > PORT_MAX:
        return None
    host = found[1] or found[3]
    try:
        return host if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        return None


def is_for_all(path: Path) -> bool:
    """Say whether every user of this machine can read *path*: a key is nobody else's. A group of its own may."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:  # whoever opens it says why
        return False


def is_loopback(host: str) -> bool:
    """Say whether *host* is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
