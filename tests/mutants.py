"""Which small mistakes does no test notice? mutmut's own, and two that it does not make.

Only `make mutants` runs this: mutmut is no part of what the tests need.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.mutation.mutators import mutation_operators


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

if __name__ == "__main__":
    for limit, max_bytes in LIMITS.items():
        resource.setrlimit(limit, (max_bytes, max_bytes))
    cli()
