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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.mutators import mutation_operators, operator_string
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
        module = meta.relative_to(MUTATED).with_suffix("")
        if found:
            table[str(module)] = Counter(_fate_of(mutant, code, module) for mutant, code in found.items())
    table["together"] = sum(table.values(), Counter())
    kinds = sorted(table["together"])
    print("| module | mutants |", " | ".join(kinds), "|")
    print("| --- | --- |", " | ".join("---" for _ in kinds), "|")
    for name, counts in table.items():
        print(f"| {name} | {counts.total()} |", " | ".join(str(counts[kind]) for kind in kinds), "|")


def _fate_of(mutant: str, code: int | None, module: Path) -> str:
    """Return what became of *mutant*; of one that survived in SQL, whether that is the same in another case."""
    fate = status_by_exit_code[code]
    if fate != "survived" or module.parent.name != "journal":
        return fate
    diff = get_diff_for_mutant(mutant, path=module).splitlines()[2:]
    old, new = ("".join(line[1:] for line in diff if line.startswith(sign)) for sign in "-+")
    return "survived, in case alone" if old.lower() == new.lower() else fate


if __name__ == "__main__":
    for limit, max_bytes in LIMITS.items():
        resource.setrlimit(limit, (max_bytes, max_bytes))
    if sys.argv[1] == "afresh":
        try_afresh()
    elif sys.argv[1] == "table":
        print_table()
    else:
        cli()
