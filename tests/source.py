"""What the tests that read the source share."""

from __future__ import annotations

import ast
import functools


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return the tree of *source*; who changes it takes a copy.

    Python 3.11 counts its depth once for all threads: where another one is just formatting a traceback, which parses
    as well, it can raise SystemError (python/cpython#106905). The next try is another moment.
    """
    for _ in range(10):
        try:
            return ast.parse(source)
        except SystemError:
            continue
    return ast.parse(source)
