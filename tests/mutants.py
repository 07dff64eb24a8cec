"""Which small mistakes does no test notice? mutmut's own, and two that it does not make.

Only `make mutants` runs this: mutmut is no part of what the tests need.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import unified_diff
from fnmatch import fnmatch
from pathlib import Path

import libcst as cst
from libcst import matchers
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.stats import status_by_exit_code

MUTATED = Path("mutants")
TIMEOUT = 36  # as mutmut notes it


def without(line: cst.SimpleStatementLine) -> Iterator[cst.SimpleStatementLine]:
    """Yield *line* without its statement: a call whose answer nobody takes, as of fsync, a return, a raise."""
    statement = line.body[0]
    if isinstance(statement, cst.Raise | cst.AugAssign | cst.Return) or (
        isinstance(statement, cst.Expr) and not isinstance(statement.value, cst.SimpleString)
    ):
        yield line.with_changes(body=[cst.Pass()])


def turned_round(condition: cst.If) -> Iterator[cst.If]:
    """Yield *condition* with its two ways exchanged."""
    test = condition.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield condition.with_changes(test=cst.UnaryOperation(cst.Not(), test))


# A text with one of these is SQL, which reads its words and names in any case; only what stands in quotes it does not.
SQL = re.compile(r"\b(AND|BEGIN|COMMIT|CONFLICT|DELETE|FROM|INSERT|ORDER|PRAGMA|SELECT|UPDATE|VACUUM|VALUES|WHERE)\b")
QUOTED = re.compile("'[^']*'")


def another(text: cst.BaseString) -> Iterator[cst.BaseString]:
    """Yield what mutmut makes of *text*, but for SQL that says the same in another case."""
    for mutant in operator_string(text):
        if (
            mutant.value.lower() != text.value.lower()
            or not SQL.search(text.value)
            or QUOTED.findall(mutant.value) != QUOTED.findall(text.value)
        ):
            yield mutant


file_mutation.mutation_operators = [
    *((node, operator) for node, operator in mutation_operators if operator is not operator_string),
    (cst.BaseString, another),
    (cst.SimpleStatementLine, without),
    (cst.If, turned_round),
]

# A mutant can take memory, or write, without end: it is to fail by that, and not to take the machine with it.
LIMITS = {resource.RLIMIT_AS: 2 << 30, resource.RLIMIT_FSIZE: 256 << 20}

# What this module does, it does while it is imported. mutmut forks after that: its mutants of it never run.
AT_IMPORT = {"rc_push/protocol/codes.py": ["tests/protocol"]}
# mutmut leaves out what is decorated, properties and context managers. These modules have some.
DECORATED = {
    "rc_push/envelope.py": ["tests/test_envelope.py"],
    "rc_push/journal/opening.py": ["tests/journal/test_store.py"],
    "rc_push/journal/store.py": ["tests/journal/test_store.py", "tests/journal/test_segments.py"],
    "rc_push/protocol/wsg.py": ["tests/protocol/test_wsg.py"],
    "rc_push/protocol/wsg_server.py": ["tests/protocol/test_wsg.py"],
}
DECORATED_FOUND = MUTATED / "decorated.json"
ARGUMENTS = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutmut"]["pytest_add_cli_args"]
PATIENCE_S = 200.0


def try_afresh(patterns: list[str]) -> None:
    """Try the mutants that mutmut cannot try, each in a process of its own, in the modules that *patterns* name."""

    def is_meant(module: str) -> bool:
        name = module.removesuffix(".py").replace("/", ".")
        return not patterns or any(fnmatch(name, pattern) for pattern in patterns)

    for module, tests in AT_IMPORT.items():
        if not is_meant(module):
            continue
        meta = MUTATED / f"{module}.meta"
        found = json.loads(meta.read_text())
        found["exit_code_by_key"] = {mutant: _exit_code(tests, mutant) for mutant in found["exit_code_by_key"]}
        meta.write_text(json.dumps(found, indent=4))
    decorated = _decorated_found()
    decorated |= {module: dict(_tried(module, tests)) for module, tests in DECORATED.items() if is_meant(module)}
    DECORATED_FOUND.write_text(json.dumps(decorated, indent=4))


def _decorated_found() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(DECORATED_FOUND.read_text()) if DECORATED_FOUND.exists() else {}
    return found


def _tried(module: str, tests: list[str]) -> Iterator[tuple[str, int]]:
    """Yield what each mutant of a decorated function changes, and what pytest said of it."""
    source, place = Path(module).read_text(), MUTATED / module
    mutated = place.read_text()
    if _exit_code(tests):
        sys.exit(f"{tests} fail without a mutant, too")
    try:
        for mutant in _mutants_of_decorated(cst.parse_module(source)):
            place.write_text(mutant)
            _, _, *diff = unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm="")
            yield "\n".join(diff), _exit_code(tests)
    finally:
        place.write_text(mutated)


def _mutants_of_decorated(module: cst.Module) -> Iterator[str]:
    for function in matchers.findall(module, matchers.FunctionDef(decorators=[matchers.AtLeastN(n=1)])):
        is_left_out = not matchers.matches(function.decorators[0].decorator, matchers.Name("classmethod"))
        for node in _nodes_in(function.body) if is_left_out else ():
            for kind, mutants_of in file_mutation.mutation_operators:
                for mutant in mutants_of(node) if isinstance(node, kind) else ():
                    yield module.deep_replace(node, mutant).code


def _nodes_in(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _nodes_in(child)


def _exit_code(tests: list[str], mutant: str = "") -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", *ARGUMENTS, *tests]
    env = os.environ | {"MUTANT_UNDER_TEST": mutant}
    try:
        done = subprocess.run(command, cwd=MUTATED, env=env, check=False, capture_output=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return TIMEOUT
    return int(done.returncode != 0)


def print_table() -> None:
    """Print what became of the mutants, module by module, after those of decorated functions that survived."""
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for meta in sorted(MUTATED.glob("rc_push/**/*.py.meta")):
        for code in json.loads(meta.read_text())["exit_code_by_key"].values():
            table[str(meta.relative_to(MUTATED).with_suffix(""))][status_by_exit_code[code]] += 1
    for module, found in _decorated_found().items():
        for diff, code in found.items():
            table[module][status_by_exit_code[code]] += 1
            if not code:
                print(f"{module}: survived\n{diff}\n")
    table["together"] = sum(table.values(), Counter())
    kinds = sorted(table["together"])
    print("| module | mutants |", " | ".join(kinds), "|")
    print("| --- | --- |", " | ".join("---" for _ in kinds), "|")
    for name, counts in table.items():
        print(f"| {name} | {counts.total()} |", " | ".join(str(counts[kind]) for kind in kinds), "|")


if __name__ == "__main__":
    for limit, max_bytes in LIMITS.items():
        resource.setrlimit(limit, (max_bytes, max_bytes))
    if sys.argv[1] == "afresh":
        try_afresh(sys.argv[2:])
    elif sys.argv[1] == "table":
        print_table()
    else:
        cli()
