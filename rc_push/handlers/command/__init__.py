"""The handler that runs a program: events on its stdin, what becomes of them by its exit code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, Reject
from rc_push.handlers.command.environment import environment_from, variables_of, variables_of_run
from rc_push.handlers.command.machine import home_of, problems_here, program_from
from rc_push.handlers.command.outcome import NEVER_STARTS, failure_from
from rc_push.handlers.command.process import run
from rc_push.handlers.command.settings import CommandSettings, problems_of
from rc_push.handlers.command.startable import why_not_startable
from rc_push.handlers.hand_over import HandOver, current_hand_over

__all__ = ["CommandHandler", "CommandSettings"]


class CommandHandler:
    """Runs the program once for each event, or with `batch` once for several.

    What it prints is kept only where it fails, and then in the journal alone: it may be the text of a message.
    """

    Settings = CommandSettings

    def __init__(self, settings: CommandSettings) -> None:
        """Look at *settings*. Raises ConfigError with all that they ask for and cannot have on this machine."""
        if problems := list(problems_of(settings)) or list(problems_here(settings)):
            raise ConfigError(problems)
        self._settings = settings
        self._path = settings.program[0]
        self._program = program_from(settings)
        self._environment = environment_from(
            os.environ, home=home_of(settings.user), named=settings.pass_environment, given=settings.environment
        )
        if settings.batch:
            self.handle_batch = self._run_for_all

    async def handle(self, envelope: Envelope) -> None:
        """Run it for one event. Raises Retry, Reject, Failed, or OSError where it cannot be started for now."""
        await self._run([envelope], {} if self._settings.batch else variables_of(envelope))

    async def _run_for_all(self, envelopes: Sequence[Envelope]) -> None:
        """Run it once for all *envelopes*: all are done, or none."""
        await self._run(envelopes, {})

    async def _run(self, envelopes: Sequence[Envelope], variables: Mapping[str, str]) -> None:
        if why := why_not_startable(self._path):
            raise Reject(f"{self._path} cannot be started: {why}")
        environment = self._environment | variables_of_run(_hand_over()) | dict(variables)
        lines = b"".join(envelope.to_json() + b"\n" for envelope in envelopes)
        try:
            ended = await run(self._program, environment, lines, kill_after_s=self._settings.kill_after_s)
        except OSError as exc:
            if exc.errno in NEVER_STARTS:
                raise Reject(f"{exc.filename or self._path} cannot be used: {exc.strerror}") from exc
            raise
        failure = failure_from(
            self._path,
            ended.returncode,
            ended.output,
            retry_after_s=self._settings.retry_after_s,
            in_sandbox=self._settings.sandbox,
        )
        if failure:
            raise failure


def _hand_over() -> HandOver:
    try:
        return current_hand_over()
    except LookupError:  # called by somebody's own code, not by the daemon
        return HandOver("")
