"""Which small mistakes does no test notice? mutmut's own, and two that it does not make.

Only `make mutants` runs this: mutmut is no part of what the tests need.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.mutation.mutators import mutation_operators
from mutmut.stats import status_by_exit_code

MUTATED = Path("mutants")


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


file_mutation.mutation_operators = [
    *mutation_operators,
    (cst.SimpleStatementLine, without),
    (cst.If, turned_round),
]

# A mutant can take memory, or write, without end: it is to fail by that, and not to take the machine with it.
LIMITS = {resource.RLIMIT_AS: 2 << 30, resource.RLIMIT_FSIZE: 256 << 20}

# What these modules do, they do while they are imported. mutmut forks after that: its mutants of them never run.
AT_IMPORT = {"rc_push/protocol/codes.py": "tests/protocol"}


def try_afresh() -> None:
    """Try the mutants that mutmut cannot try, each in a process of its own, and note what came of it with mutmut's."""
    for module, tests in AT_IMPORT.items():
        if _is_noticed("", tests):
            sys.exit(f"{tests} fails without a mutant, too")
        meta = MUTATED / f"{module}.meta"
        found = json.loads(meta.read_text())
        found["exit_code_by_key"] = {mutant: int(_is_noticed(mutant, tests)) for mutant in found["exit_code_by_key"]}
        meta.write_text(json.dumps(found, indent=4))


def _is_noticed(mutant: str, tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    env = os.environ | {"MUTANT_UNDER_TEST": mutant}
    return subprocess.run(command, cwd=MUTATED, env=env, check=False, capture_output=True).returncode != 0


def print_table() -> None:
    """Print what became of the mutants, module by module."""
    table: dict[str, Counter[str]] = {}
    for meta in sorted(MUTATED.glob("rc_push/**/*.py.meta")):
        found = json.loads(meta.read_text())["exit_code_by_key"]
        if found:
            name = str(meta.relative_to(MUTATED / "rc_push")).removesuffix(".py.meta")
            table[name] = Counter(status_by_exit_code[code] for code in found.values())
    table["together"] = sum(table.values(), Counter())
    kinds = list(table["together"])
    print("| module | mutants |", " | ".join(kinds), "|")
    print("| --- | --- |", " | ".join("---" for _ in kinds), "|")
    for name, counts in table.items():
        print(f"| {name} | {counts.total()} |", " | ".join(str(counts[kind]) for kind in kinds), "|")


if __name__ == "__main__":
    for limit, max_bytes in LIMITS.items():
        resource.setrlimit(limit, (max_bytes, max_bytes))
    if sys.argv[1] == "afresh":
        try_afresh()
    elif sys.argv[1] == "table":
        print_table()
    else:
        cli()
