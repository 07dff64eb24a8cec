"""Where is the file, and what does it say as TOML? Not whether that makes sense.

Knows files and TOML; knows nothing of settings.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rc_push.config.words import SHOWN_MAX_LENGTH
from rc_push.errors import ConfigError, Problem

# Where the file is looked for when nobody names it.
SEARCHED = (Path("rc-push.toml"), Path("/etc/rc-push/config.toml"))
FILE_MAX_BYTES = 1 << 20
FINGERPRINT_DIGITS = 12


def find_config(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: *option* (-c), else $RC_PUSH_CONFIG, else the first of `SEARCHED` that exists."""
    named = option or (Path(environ["RC_PUSH_CONFIG"]) if environ.get("RC_PUSH_CONFIG") else None)
    return named or next((path for path in SEARCHED if _exists(path)), None)


def text_of(path: Path) -> tuple[str, str]:
    """Return the text of the file at *path*, and its fingerprint. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no path"
        raise _unusable(path, f"cannot be read: {reason}", "name a file that this user can read") from None
    if len(content) > FILE_MAX_BYTES:
        raise _unusable(path, "larger than 1 MiB", "name a configuration file")
    try:
        return content.decode("utf-8-sig"), hashlib.sha256(content).hexdigest()[:FINGERPRINT_DIGITS]
    except UnicodeDecodeError as exc:
        raise _unusable(path, "not UTF-8", "save it as UTF-8", content.count(b"\n", 0, exc.start) + 1) from None


def parsed(text: str, path: Path) -> dict[str, Any]:
    """Return what the TOML *text* of the file at *path* says. Raises ConfigError with the line of the mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        what, _, where = str(exc).rpartition(" (at ")
        number = re.match(r"line (\d+)", where)
        line = int(number[1]) if number else max(1, len(text.splitlines()))
        remedy = "correct the TOML: key = value, strings in quotes, tables in [brackets]"
        raise _unusable(path, what[:SHOWN_MAX_LENGTH], remedy, line) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets a thousand deep
        raise _unusable(path, "nested or long beyond reason", "name a configuration file") from None


def look_at_mode(path: Path) -> list[Problem]:
    """Return a warning of a file that everybody can write: it names programs that run, and where secrets are."""
    try:
        mode = path.stat().st_mode
    except OSError:  # none was named, or it went since it was read
        return []
    if not mode & stat.S_IWOTH:
        return []
    found = f"can be written by everybody (mode {stat.S_IMODE(mode):04o})"
    return [Problem(str(path), found, f"chmod o-w {shlex.quote(str(path))}", warning=True)]


def _unusable(path: Path, found: str, remedy: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(str(path), found, remedy, line)], path=str(path))


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it may be there: reading it then says what is wrong
        return True
    return True
