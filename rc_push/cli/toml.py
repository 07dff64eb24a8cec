"""How is a value written into a configuration file? In TOML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def toml(value: Any) -> str:
    """Return *value* as TOML writes it: like JSON, but for tables, and no character as a pair of codes."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    written = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
    return written.replace("\x7f", "\\u007f")
