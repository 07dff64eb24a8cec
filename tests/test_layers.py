"""Imports point downwards only, siblings do not import each other, and `protocol` knows no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from source import parsed

import rc_push

ROOT = Path(rc_push.__file__).parent

# From top to bottom: a module may import what stands in a row below its own. A row is a row of siblings.
ROWS = (
    {"__main__", "pytest_plugin"},
    {"cli", "testing"},
    {"serve"},
    {"app"},
    {"operations", "notify", "crew", "views", "pages"},
    {"metrics"},
    {"status"},
    {"health"},
    {"receive", "reconcile", "dispatch", "retention", "web", "simulator"},
    {"transports", "journal", "handlers", "systemd", "routing", "ordering"},
    {"rest"},
    {"exchanges"},
    {"sdk"},
    {
        "protocol",
        "limiter",
        "upgrade_gate",
        "http",
        "dial",
        "threads",
        "stalls",
        "running",
        "templates",
        "asgi",
        "oauth",
    },
    {"log", "network"},  # above config, whose settings they take
    {"payload"},
    {"envelope", "config", "backoff", "control", "measures"},
    {"errors", "terminal", "nesting", "folders", "event_types", "local_time", "waiting"},
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}

# Sockets, clocks, randomness, files, processes, threads; and what brings them along.
IO = {
    *(
        "asyncio",
        "socket",
        "ssl",
        "select",
        "selectors",
        "http",
        "urllib.request",
        "websockets",
        "requests",
        "ringcentral",
    ),
    *("time", "random", "secrets", "uuid", "os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "subprocess"),
    *("threading", "multiprocessing", "concurrent", "queue", "signal", "logging", "structlog", "sys"),
}


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def imports_of(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that *source* imports, at the top or inside of functions."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(source: str) -> set[str]:
    """Return the modules and packages directly under rc_push that *source* imports."""
    names = {name.split(".")[1] for name in imports_of(source) if name.startswith("rc_push.")}
    return names - {"__version__"}


def violations(name: str, source: str) -> list[str]:
    """Return what the module or package *name* may not import of ours."""
    return [
        imported
        for imported in sorted(ours(source))
        if imported != name and (imported not in ROW_OF or ROW_OF[imported] <= ROW_OF[name])
    ]


MODULES = [path for path in sorted(ROOT.rglob("*.py")) if parts_of(path) != ("__init__",)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(parts_of(path)))
def test_a_module_imports_only_from_below(path):
    name = parts_of(path)[0]
    assert name in ROW_OF, f"{name} has no place in the layers: give it one in ROWS and in ARCHITECTURE.md"
    assert violations(name, path.read_text("utf-8")) == []


def test_the_package_itself_imports_nothing_of_ours():
    assert ours((ROOT / "__init__.py").read_text("utf-8")) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if "protocol" in parts_of(path)], ids=lambda path: path.stem)
def test_protocol_imports_no_io(path):
    assert io_of(path.read_text("utf-8")) == []


def io_of(source: str) -> list[str]:
    return [name for name in imports_of(source) if any(f"{name}.".startswith(f"{io}.") for io in IO)]


@pytest.mark.parametrize(
    "source", ["import time", "from urllib.request import urlopen", "def f():\n    import os.path"]
)
def test_the_rule_finds_io(source):
    assert io_of(source)
    assert io_of("from urllib.parse import urlsplit\nimport timeit") == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rest", "from rc_push.transports import Link"),
        ("rest", "from rc_push import app"),
        ("rest", "import rc_push.journal.store"),
        ("receive", "from rc_push.dispatch import Dispatcher"),
        ("config", "def f():\n    from rc_push.rest import Account"),
        ("errors", "from rc_push import config"),
        ("app", "from rc_push.utils import x"),
    ],
)
def test_the_rule_finds_imports_upwards_sideways_hidden_and_unknown(name, source):
    assert violations(name, source)


def test_the_rule_lets_imports_downwards_and_inside_of_a_package_pass():
    source = (
        "from rc_push import __version__, handlers\nfrom rc_push.app import App\nimport rc_push.cli.show\nimport time"
    )
    assert ours(source) == {"handlers", "app", "cli"}
    assert violations("cli", source) == []
