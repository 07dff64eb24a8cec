"""What is a handler, and where does it come from? The interface, and loading by entry points.

The built-in handlers are loaded like anyone's. Knows envelopes and the settings of a handler; knows nothing of the
journal, of routing or of retries.

A handler is a class with `handle`, or a plain function of one envelope. It may have, and nothing else is looked at:

    Settings              a msgspec.Struct; the class is then constructed with one, else with no arguments
    handle_batch          for sinks that gain from taking many at once
    __aenter__, __aexit__ open and close what it needs
    reopen                after SIGHUP (logrotate)
    check                 for `rc-push check`: look whether what it writes to would take events

Where one of the calls is no coroutine function, it runs in a thread.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import os
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from rc_push.config import HandlerConfig, with_lines
from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, HandlerError, Problem, UnreachableError
from rc_push.handlers.hand_over import Fork, end_fork
from rc_push.handlers.settings import problem_from, settings_from_table
from rc_push.threads import CallThreads

_log = structlog.get_logger()  # `log` here is the module of the handler of that name

GROUP = "rc_push.handlers"
# The start of the daemon waits for its handlers, and so does its end; systemd ends what takes longer to stop than 30 s.
OPEN_WITHIN_S = 60.0
CLOSE_WITHIN_S = 5.0
REACH_REMEDY = "look whether what it writes to answers"
# Of what a plug-in says that cannot be loaded; the log has more.
SAID_MAX_LENGTH = 1000


class Handler(Protocol):
    """What a plug-in has to have. To return means done; raise `Retry` for later, `Reject` for never."""

    async def handle(self, envelope: Envelope) -> None:
        """Take one event. It may come more than once: after a failure, a time-out or a crash."""


@dataclass(frozen=True, slots=True)
class LoadedHandler:
    """A handler as the daemon uses it: one shape for classes and functions. *handle_batch* is None without one.

    A call that is cancelled while it runs in a thread goes on there to its end. *warnings* are what is doubtful in its
    settings.
    """

    name: str
    handler: object
    handle: Callable[[Envelope], Awaitable[None]]
    handle_batch: Callable[[Sequence[Envelope]], Awaitable[None]] | None = None
    thread: CallThreads = field(default_factory=lambda: CallThreads("handler"))
    warnings: tuple[Problem, ...] = ()

    async def open(self) -> None:
        """Open what it needs. Raises HandlerError, and UnreachableError where that takes too long."""
        if enter := getattr(self.handler, "__aenter__", None):
            with _blaming(self.name, "opened"):
                await _within(OPEN_WITHIN_S, "opened", enter)

    async def close(self) -> None:
        """Close what it has opened. A failure is logged: the others have to be closed too."""
        if leave := getattr(self.handler, "__aexit__", None):
            with _logging_blame(), _blaming(self.name, "closed"):
                await _within(CLOSE_WITHIN_S, "closed", leave, None, None, None)
        self.thread.stop()

    async def reopen(self) -> None:
        """Let it open its files anew. A failure is logged: it shows again at the next event."""
        if reopen := getattr(self.handler, "reopen", None):
            with _logging_blame(), _blaming(self.name, "reopened"):
                await _within(OPEN_WITHIN_S, "reopened", _as_async(reopen, self.thread))

    async def check(self) -> str:
        """Let it look, not open, whether what it writes to would take events; return what it found, in its words.

        Raises HandlerError, and UnreachableError where it may be a matter of time.
        """
        look = getattr(self.handler, "check", None)
        if look is None:
            return ""
        with _blaming(self.name, "checked"):
            return str(await _as_async(look, self.thread)() or "")


def load(config: HandlerConfig, environ: Mapping[str, str] = os.environ) -> LoadedHandler:
    """Return the handler that *config* asks for, not yet open. *environ* has the secrets that its settings name.

    Raises ConfigError where there is none of that name, or with every mistake in its settings; HandlerError where it
    does not work.
    """
    with _blaming(config.name, "found"):
        entry_point = _find(config)
    with _blaming(config.name, "loaded", entry_point):
        handler, warnings = _construct(entry_point.load(), config, environ)
        return adapt(config.name, handler, config.concurrency, warnings)


def adapt(name: str, handler: Any, concurrency: int = 1, warnings: Sequence[Problem] = ()) -> LoadedHandler:
    """Return *handler*, an object with `handle` or a function, in the shape that the daemon uses."""
    handle = getattr(handler, "handle", handler)
    if not callable(handle):
        raise HandlerError("neither a class with handle(envelope) nor a function; see the plug-in")
    handle_batch = getattr(handler, "handle_batch", None)
    for call in (handle, handle_batch):
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise HandlerError(f"{call.__qualname__} has a yield in it, so that calling it does nothing; remove it")
    thread = CallThreads(f"handler-{name}", concurrency)
    batch = _as_async(handle_batch, thread) if handle_batch else None
    return LoadedHandler(name, handler, _as_async(handle, thread), batch, thread, tuple(warnings))


def load_all(configs: Iterable[HandlerConfig], path: Path | None = None) -> list[LoadedHandler]:
    """Return the handlers that *configs* ask for, not yet open.

    Raises ConfigError with the mistakes of all of them, each with its line in the file at *path*.
    """
    loaded: list[LoadedHandler] = []
    problems: list[Problem] = []
    for config in configs:
        try:
            loaded.append(load(config))
        except (ConfigError, HandlerError) as exc:
            problems += problems_of(exc, config)
    if problems:
        raise ConfigError(with_lines(problems, path), path=str(path)) if path else ConfigError(problems)
    return loaded


def problems_of(exc: ConfigError | HandlerError | UnreachableError, config: HandlerConfig) -> list[Problem]:
    """Return what *exc*, raised by the handler that *config* asks for, tells, each at the key that it means."""
    if isinstance(exc, ConfigError):
        return exc.problems
    otherwise = REACH_REMEDY if isinstance(exc, UnreachableError) else ""
    return [problem_from(str(exc), config, config.settings, otherwise)]


def _find(config: HandlerConfig) -> EntryPoint:
    name, key = config.use, f"handlers.{config.name}.use"
    installed = entry_points(group=GROUP)
    found = {entry_point.value: entry_point for entry_point in installed if entry_point.name == name}
    if len(found) > 1:
        rivals = " and ".join(_origin(entry_point) for entry_point in found.values())
        raise ConfigError([Problem(key, f"{name!r} is offered by {rivals}", "uninstall all but one")])
    if not found:
        names = sorted(installed.names)
        nearest = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ConfigError([Problem(key, f"no handler {name!r} is installed", f"{hint}there are: {', '.join(names)}")])
    return found.popitem()[1]


def _construct(plugin: Any, config: HandlerConfig, environ: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """Return the handler made of *plugin* with its settings, and the warnings; a function is one already."""
    is_class = inspect.isclass(plugin)
    if is_class and not callable(getattr(plugin, "handle", None)):
        raise HandlerError(f"{plugin.__qualname__} has no handle(envelope); see the plug-in")
    declared = getattr(plugin, "Settings", None) if is_class else None
    if declared is None:
        settings_from_table(_NoSettings, config)
        return (plugin() if is_class else plugin), []
    settings, warnings = settings_from_table(declared, config, environ)
    try:
        return plugin(settings), warnings
    except ConfigError as exc:  # the settings are well formed, and still wrong here
        problems = [replace(problem, key=f"handlers.{config.name}.{problem.key}") for problem in exc.problems]
        raise ConfigError(problems) from exc


class _NoSettings(msgspec.Struct):
    """What a plug-in without settings declares."""


def _as_async(call: Callable[..., Any], thread: CallThreads) -> Callable[..., Awaitable[Any]]:
    """Return *call* as it is where it is a coroutine function, else run in *thread*."""
    if inspect.iscoroutinefunction(call):
        return call

    def call_and_stay(*args: Any) -> Any:
        fork_depth = Fork.depth
        try:
            return call(*args)
        finally:
            if Fork.depth != fork_depth:
                end_fork()

    async def call_in_thread(*args: Any) -> Any:
        result = await thread.run(call_and_stay, *args)
        # A decorator can hide that it is a coroutine function: do not lose the event.
        return await result if inspect.isawaitable(result) else result

    return call_in_thread


@contextmanager
def _blaming(name: str, done: str, entry_point: EntryPoint | None = None) -> Iterator[None]:
    """Name the handler in whatever its code raises; a traceback of what it did not mean to goes to the log.

    Raises HandlerError, UnreachableError, ConfigError.
    """
    try:
        yield
    except ConfigError:
        raise
    except HandlerError as exc:
        raise HandlerError(f"handlers.{name}: {exc}") from exc
    except UnreachableError as exc:
        raise UnreachableError(f"handlers.{name}: {exc}", phase=exc.phase) from exc
    except (KeyboardInterrupt, GeneratorExit):  # the user's Ctrl-C, and the end of a coroutine
        raise
    except BaseException as exc:  # foreign code can raise anything, a script without a guard even SystemExit
        if isinstance(exc, asyncio.CancelledError) and _is_stopped():
            raise
        _log.error("handler_broken", handler=name, exc_info=exc)
        last_line = traceback.format_exception_only(exc)[-1].strip()[:SAID_MAX_LENGTH]
        whose = f" {_origin(entry_point)}" if entry_point else ""
        raise HandlerError(f"handlers.{name}:{whose} cannot be {done}: {last_line}; the log has the traceback") from exc


def _is_stopped() -> bool:
    """Say whether the task that is running has been cancelled, by whomever; where there is none, it has not."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop either: a command
        return False
    return task is not None and task.cancelling() > 0


async def _within(seconds: float, done: str, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Await *call*. Raises UnreachableError where that takes too long: it may be a matter of time."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await call(*args)
    except TimeoutError:
        if not limit.expired():
            raise
        raise UnreachableError(f"not {done} within {seconds:g} s; look what it waits for") from None


@contextmanager
def _logging_blame() -> Iterator[None]:
    try:
        yield
    except (HandlerError, ConfigError, UnreachableError) as exc:
        _log.error("handler_error", error=str(exc))


def _origin(entry_point: EntryPoint) -> str:
    """Return the plug-in for people: *'tickets' (acme 1.2, acme:Tickets)*."""
    dist = entry_point.dist
    owner = f"{dist.name} {dist.version}, " if dist else ""
    return f"{entry_point.name!r} ({owner}{entry_point.value})"
