"""What does the process return? The one place where exceptions become messages and exit codes.

Knows the error tree; knows nothing of what commands do.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO, TypeGuard

import click

from rc_push.cli import cli
from rc_push.errors import EXIT_FAILED, EXIT_INTERNAL, EXIT_OK, ConfigError, RcPushError, told
from rc_push.terminal import printable

EXIT_INTERRUPTED = 130  # what shells return for SIGINT
# What is left when a command has ended (threads, exit functions) gets this long to end by itself.
LEFT_OVER_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in *arguments* (those of the process); return its exit code. Raises nothing."""
    _open_what_is_closed()
    _let_any_text_pass(sys.stdout)
    try:
        code = _run(arguments)
        with contextlib.suppress(ValueError):  # a plug-in has closed it
            sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough (`rc-push events | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when the interpreter ends
        return EXIT_FAILED
    return code


def script() -> None:
    """Be the process: run its command, and end with the exit code, also where threads of plug-ins never end."""
    code = main()
    if "asyncio" in sys.modules:  # most commands have nothing that could be left
        timer = threading.Timer(LEFT_OVER_S, _leave, (code,))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        color = False if os.environ.get("NO_COLOR") else None  # None: where a terminal is
        code = cli.main(arguments, prog_name="rc-push", standalone_mode=False, color=color)
    except SystemExit as exc:  # click's own, after a broken pipe
        code = EXIT_OK if exc.code is None else exc.code
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - the outermost boundary: a bare traceback could show secrets
        code = _report(list(_leaves(exc)))
    return code if isinstance(code, int) else EXIT_OK


def _report(errors: list[BaseException]) -> int:
    """Tell what went wrong; return the exit code of the first."""
    if all(isinstance(exc, BrokenPipeError) for exc in errors):
        raise BrokenPipeError
    for exc in errors:
        if isinstance(exc, RcPushError):
            _tell(_message(exc))
        elif _is_output(exc):
            _tell(f"the output cannot be written: {exc.strerror}")
            return EXIT_FAILED
        else:
            _tell("internal error; please report it with what follows\n" + "".join(traceback.format_exception(exc)))
    codes = [exc.exit_code if isinstance(exc, RcPushError) else EXIT_INTERNAL for exc in errors]
    return EXIT_INTERNAL if EXIT_INTERNAL in codes else codes[0]


def _is_output(exc: BaseException) -> TypeGuard[OSError]:
    """Say whether *exc* is what writing to stdout has raised: a full disk behind `> file`."""
    if not isinstance(exc, OSError):
        return False
    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return frame.f_globals.get("__name__") == click.echo.__module__


def _open_what_is_closed() -> None:
    """Let the standard streams that the process was started without lead nowhere.

    In the order of their numbers, of which the next file gets the lowest that is free: so no journal gets one of these.
    That there was none, `sys.__stdin__` and its like go on to say.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the end


def _let_any_text_pass(stream: TextIO) -> None:
    """Let *stream* write what its encoding has no characters for as codes, as stderr does."""
    if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
        stream.reconfigure(errors="backslashreplace")


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield what a task group has gathered, one by one."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _leave(code: int) -> None:
    names = ", ".join(thread.name for thread in threading.enumerate() if not thread.daemon)
    with contextlib.suppress(OSError, ValueError):
        _tell(f"ended, though something of a plug-in has not, in {names}; let threads that may hang be daemon threads")
    os._exit(code)


def _message(exc: RcPushError) -> str:
    if not isinstance(exc, ConfigError):
        return told(exc)
    mistakes = [str(problem) for problem in exc.problems if not problem.warning]
    if len(mistakes) == 1:
        return mistakes[0] if exc.path is None or exc.path in mistakes[0] else f"{exc.path}: {mistakes[0]}"
    return "\n  ".join([f"{exc.path or 'the configuration'}: {len(mistakes)} mistakes", *mistakes])


def _tell(text: str) -> None:
    from rc_push.log import redact  # noqa: PLC0415 - most commands end well and need no log

    lines = redact(text).rstrip("\n").split("\n")
    click.echo("\n".join(printable(line) for line in ["rc-push: " + lines[0], *lines[1:]]), err=True)


if __name__ == "__main__":
    script()
