"""How do rows become calls? Loop 2: one per handler, at its own pace.

Knows the journal and handlers by their interfaces; knows nothing of transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from rc_push.backoff import delays_s
from rc_push.config import HandlerConfig, RetryConfig
from rc_push.envelope import Envelope
from rc_push.errors import JournalError, Reject, Retry
from rc_push.handlers import LoadedHandler
from rc_push.journal import Journal, Parked
from rc_push.routing import Route

log = structlog.get_logger()
T = TypeVar("T")

# Events read at once: one read, one hand-over where the handler takes batches, one note of progress.
READ_AT_ONCE = 256
# What is kept of why something failed. A handler can put a whole message into its exception.
REASON_MAX_LENGTH = 1000
NOTE_AGAIN_S = 5.0
JOURNAL_LADDER_S = ((0.1, 0.1), (0.5, 1.0), (2.0, 5.0))


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """What is known of one handler: the *position* it is finished with, and counts since the start."""

    handler: str
    position: int
    delivered: int
    filtered: int
    failed: int
    parked: int
    last_error: str


class Dispatcher:
    """Loop 2 for one handler. `run()` ends only by cancellation; what is then cut is handed over again."""

    def __init__(
        self,
        config: HandlerConfig,
        handler: LoadedHandler,
        journal: Journal,
        *,
        grace_s: float = 10.0,
        note_every_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name = config.name
        self._config = config
        self._handler = handler
        self._route = Route(config)
        self._journal = journal
        self._grace_s = grace_s
        self._note_every_s = note_every_s
        self._noted = 0
        self._noting: asyncio.Task[None] | None = None
        self._sleep = sleep
        self._wall = wall
        self._position = 0
        self._delivered = self._filtered = self._failed = self._parked = 0
        self._last_error = ""
        self._ladder = _ladder(config.retry)
        self._is_pausing = self._is_stopping = False

    def statistics(self) -> DispatcherStatistics:
        """Return what is known now."""
        return DispatcherStatistics(
            handler=self._name,
            position=self._position,
            delivered=self._delivered,
            filtered=self._filtered,
            failed=self._failed,
            parked=self._parked,
            last_error=self._last_error,
        )

    async def register(self) -> None:
        """Take up where the handler was; call it before anything is received, so that a new one misses nothing."""
        self._position = self._noted = await self._journal.register_handler(self._name)

    async def run(self) -> None:
        """Hand over for ever."""
        try:
            await self._run()
        finally:
            await self._settle()

    async def _run(self) -> None:
        while True:
            head = await self._journal.wait_past(self._position)
            envelopes = await self._read()
            step = asyncio.ensure_future(self._hand_over_all(envelopes, envelopes[-1].position if envelopes else head))
            try:
                await asyncio.shield(step)
            except asyncio.CancelledError:
                await self._finish(step)
                raise

    async def _finish(self, step: asyncio.Future[None]) -> None:
        """Give a running call its grace, then cut it. No further one begins; waiting for a retry is cut at once."""
        self._is_stopping = True
        grace_s = 0.0 if self._is_pausing else self._grace_s
        try:
            await asyncio.wait([step], timeout=grace_s)
        finally:  # a second cancellation cuts it at once, but leaves nothing running either
            if not step.done():
                log.warning("handler_cut", handler=self._name, grace_s=grace_s, position=self._position)
                step.cancel()
                await asyncio.wait([step])

    async def _hand_over_all(self, envelopes: Sequence[Envelope], position: int) -> None:
        parked: list[Parked] = []
        wanted = [envelope for envelope in envelopes if self._is_wanted(envelope, parked)]
        self._filtered += len(envelopes) - len(wanted) - len(parked)
        if not await self._hand_over_batch(wanted):
            done = self._position
            try:
                for envelope in wanted:
                    parked += await self._hand_over_one(envelope)
                    done = envelope.position
            except asyncio.CancelledError:
                await self._note(done, parked)
                raise
        await self._note(position, parked)

    def _is_wanted(self, envelope: Envelope, parked: list[Parked]) -> bool:
        """Say whether the handler is to get *envelope*; where the rules cannot be applied to it, it is parked."""
        try:
            return self._route.matches(envelope)
        except Exception as exc:  # noqa: BLE001 - the supervisor: one strange event must not stop the others
            parked.append(self._park(envelope, 0, f"cannot be routed: {_describe(exc)}"))
            return False

    async def _hand_over_batch(self, envelopes: Sequence[Envelope]) -> bool:
        """Return True where all of *envelopes* are done; the caller hands them over singly otherwise."""
        if not envelopes:
            return True
        if self._handler.handle_batch is None:
            return False
        try:
            await self._call(self._handler.handle_batch, envelopes)
        except Retry as later:
            await self._pause(later.delay_s)
            return False
        except Reject:
            return False  # which of them, only handing over singly tells
        except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
            self._note_failure(exc, envelopes[0], 1, 0.0)
            return False
        self._delivered += len(envelopes)
        return True

    async def _hand_over_one(self, envelope: Envelope) -> list[Parked]:
        """Hand *envelope* over until it is done; return it parked where it never will be."""
        attempts = 0
        delays = delays_s(self._ladder)
        while True:
            try:
                await self._call(self._handler.handle, envelope)
            except Retry as later:
                await self._pause(later.delay_s)
            except Reject as exc:
                return [self._park(envelope, attempts + 1, exc.reason)]
            except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
                attempts += 1
                if attempts >= self._config.retry.max_attempts:
                    return [self._park(envelope, attempts, _describe(exc))]
                delay_s = next(delays)
                self._note_failure(exc, envelope, attempts, delay_s)
                await self._pause(delay_s)
            else:
                self._delivered += 1
                return []

    async def _call(self, handle: Callable[[T], Awaitable[None]], what: T) -> None:
        """Call the handler, within its time. Raises an Exception for all that it does wrong; CancelledError is ours."""
        self._stop_if_asked()
        try:
            async with asyncio.timeout(self._config.timeout_s) as limit:
                await handle(what)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TimeoutError(f"not done within {self._config.timeout_s:g} s") from exc
        except (asyncio.CancelledError, SystemExit) as exc:  # taken as ours, they would end this loop in silence
            if _is_cancelled():
                raise asyncio.CancelledError from exc
            raise RuntimeError(f"the handler raised {type(exc).__name__}") from exc

    async def _pause(self, delay_s: float) -> None:
        self._stop_if_asked()
        self._is_pausing = True
        try:
            await self._sleep(delay_s)
        finally:
            self._is_pausing = False

    def _stop_if_asked(self) -> None:
        if self._is_stopping:
            raise asyncio.CancelledError

    def _park(self, envelope: Envelope, attempts: int, reason: str) -> Parked:
        reason = _storable(reason)
        self._parked += 1
        self._last_error = reason
        log.error("event_parked", handler=self._name, position=envelope.position, attempts=attempts, reason=reason)
        return Parked(envelope.position, attempts, reason, round(self._wall() * 1000))

    def _note_failure(self, exc: Exception, envelope: Envelope, attempt: int, delay_s: float) -> None:
        self._failed += 1
        self._last_error = _describe(exc)
        log.warning(
            "handler_failed",
            handler=self._name,
            position=envelope.position,
            attempt=attempt,
            error=self._last_error,
            next_try_s=round(delay_s, 1),
            exc_info=exc,
        )

    async def _read(self) -> list[Envelope]:
        delays = delays_s(JOURNAL_LADDER_S)
        while True:
            try:
                return await self._journal.read(self._position, READ_AT_ONCE)
            except JournalError as exc:
                self._last_error = str(exc)
                log.error("journal_cannot_read", handler=self._name, error=str(exc))
            await self._pause(next(delays))

    async def _note(self, position: int, parked: Sequence[Parked]) -> None:
        """Note the progress, soon: a note at once would cost an fsync for each hand-over.

        Without it the same events are handed over again after a restart, so a stop may cut it. What is parked is
        noted at once.
        """
        if parked or self._is_stopping or not self._note_every_s:
            await self._save(position, parked)
            return
        self._position = position
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._save_soon())

    async def _save_soon(self) -> None:
        delay_s = self._note_every_s
        while self._noted < self._position:
            await asyncio.sleep(delay_s)
            position = self._position
            try:
                await self._journal.save_progress(self._name, position)
            except JournalError as exc:
                delay_s = NOTE_AGAIN_S
                self._last_error = str(exc)
                log.error("journal_cannot_note_progress", handler=self._name, error=str(exc))
            else:
                self._noted = position

    async def _settle(self) -> None:
        """Note at the end what has not been noted yet."""
        if self._noting:
            self._noting.cancel()
            await asyncio.wait([self._noting])
        if self._noted < self._position:
            with contextlib.suppress(JournalError):
                await self._journal.save_progress(self._name, self._position)

    async def _save(self, position: int, parked: Sequence[Parked]) -> None:
        delays = delays_s(JOURNAL_LADDER_S)
        while True:
            try:
                await self._journal.save_progress(self._name, position, parked)
            except JournalError as exc:
                self._last_error = str(exc)
                log.error("journal_cannot_note_progress", handler=self._name, error=str(exc))
                await self._pause(next(delays))
                continue
            self._position = max(self._position, position)
            self._noted = position
            return


def _ladder(retry: RetryConfig) -> tuple[tuple[float, float], ...]:
    """Return the random ranges of the delays: doubling from the first to the longest."""
    steps, delay_s = [], retry.first_delay_s
    while delay_s < retry.max_delay_s:
        steps.append((delay_s / 2, delay_s))
        delay_s *= 2
    return (*steps, (retry.max_delay_s / 2, retry.max_delay_s))


def _is_cancelled() -> bool:
    """Say whether somebody has asked this task to stop; a CancelledError alone can be a handler's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(exc: Exception) -> str:
    """Return what *exc* says, even where its own text cannot be had."""
    return _storable("".join(traceback.format_exception_only(exc)).strip())


def _storable(text: str) -> str:
    """Return *text* as the journal can keep it: bounded, and without halves of emojis."""
    return text[:REASON_MAX_LENGTH].encode(errors="replace").decode()
