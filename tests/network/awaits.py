"""An exception in the place of any await: each `await`, `async with` and `async for` is found in a module's source.

The functions stay what they are; only their code is exchanged for one that asks `Awaits` at each of these points.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import functools
import inspect
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from source import parsed

HOOKS = ("_at_await", "_at_async_with", "_at_async_for")


class PlantedError(Exception):
    """What nobody expects."""


class _Points(ast.NodeTransformer):
    """Names each point after its function and its number in it, so that names outlive other lines."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._path: list[str] = []
        self._counts: dict[str, int] = {}
        self.found: list[str] = []

    def _visit_scope(self, node: Any) -> Any:
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()
        return node

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _visit_scope  # noqa: N815 - the library's names

    def visit_Await(self, node: ast.Await) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.Await(self._asked("_at_await", node.value)), node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        for item in node.items:
            item.context_expr = self._asked("_at_async_with", item.context_expr)
        self.generic_visit(node)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        node.iter = self._asked("_at_async_for", node.iter)
        self.generic_visit(node)
        return node

    def _asked(self, hook: str, value: ast.expr) -> ast.expr:
        name = ".".join([self._module.removeprefix("rc_push."), *self._path])
        self._counts[name] = self._counts.get(name, 0) + 1
        point = f"{name}#{self._counts[name]}"
        self.found.append(point)
        call = ast.Call(ast.Name(hook, ast.Load()), [ast.Constant(point), value], [])
        return ast.fix_missing_locations(ast.copy_location(call, value))


@functools.cache  # at the import of the tests: later, other threads may parse as well (see `source.parsed`)
def _instrumented(module: types.ModuleType) -> tuple[dict[str, types.CodeType], list[str]]:
    """Return the code of all functions of *module*, which asks at each point, and the points."""
    tree = copy.deepcopy(parsed(Path(str(module.__file__)).read_text("utf-8")))
    points = _Points(module.__name__)
    code = compile(points.visit(tree), str(module.__file__), "exec")
    return dict(_codes_in(code)), points.found


def points_in(modules: list[types.ModuleType]) -> list[str]:
    """Return the names of all points."""
    return [point for module in modules for point in _instrumented(module)[1]]


class Awaits:
    """Counts who comes by, and raises once at the point that is armed."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.armed = ""
        self.has_struck = False

    def arm(self, point: str) -> None:
        """Have the next one who comes by at *point* raise."""
        self.armed = point

    def _strikes(self, point: str) -> bool:
        self.reached.add(point)
        if point != self.armed:
            return False
        self.armed, self.has_struck = "", True
        return True

    async def at_await(self, point: str, awaitable: Any) -> Any:
        if self._strikes(point):
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            elif asyncio.isfuture(awaitable):
                awaitable.cancel()  # nobody will ask for it any more
            raise PlantedError(point)
        return await awaitable

    @contextlib.asynccontextmanager
    async def at_async_with(self, point: str, manager: Any) -> AsyncIterator[Any]:
        if self._strikes(point):
            raise PlantedError(point)
        async with manager as value:
            yield value

    async def at_async_for(self, point: str, values: Any) -> AsyncIterator[Any]:
        if self._strikes(point):
            raise PlantedError(point)
        async for value in values:
            yield value

    @contextlib.contextmanager
    def watching(self, modules: list[types.ModuleType]) -> Iterator[None]:
        """Exchange the code of all functions of *modules*; put it back at the end."""
        with contextlib.ExitStack() as stack:
            for module in modules:
                codes, _ = _instrumented(module)
                for hook, answer in zip(HOOKS, (self.at_await, self.at_async_with, self.at_async_for), strict=True):
                    setattr(module, hook, answer)
                    stack.callback(delattr, module, hook)
                for function in _functions_in(module):
                    stack.callback(setattr, function, "__code__", function.__code__)
                    function.__code__ = codes[function.__code__.co_qualname]
            yield


def _codes_in(code: types.CodeType) -> Iterator[tuple[str, types.CodeType]]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner.co_qualname, inner
            yield from _codes_in(inner)


def _functions_in(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Yield the functions and methods that *module* defines, without their decorators."""
    scopes: list[Any] = [module]
    scopes += [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    for scope in scopes:
        for value in vars(scope).values():
            found = getattr(value, "fget", None) or getattr(value, "__func__", value)
            found = inspect.unwrap(found) if callable(found) else found
            if isinstance(found, types.FunctionType) and found.__code__.co_filename == module.__file__:
                yield found
