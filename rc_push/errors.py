"""What can go wrong, as one tree, and which of it is worth another try.

    RcPushError
    ├── ConfigError              the file is wrong: every mistake at once            exit 78
    ├── RefusedError             RingCentral says no, and will say no again          exit 77
    │   ├── CredentialsRefused       … to the client id, the secret or the JWT
    │   ├── PermissionRefused        … to this app or this user
    │   └── FiltersRefused           … an event filter                               exit 78
    ├── RestError                RingCentral answered a request with an error
    │   ├── RateLimited              429: stay silent for retry_after_s
    │   └── ServerError              5xx
    ├── UnreachableError         no answer: DNS, TCP, TLS, proxy, time-out           exit 69
    │   └── UpgradeBlocked           HTTP works, the WebSocket upgrade does not get through
    ├── ProtocolError            the server broke the gateway's rules
    ├── JournalError             the journal cannot be used                          exit 74
    │   ├── JournalInUse             another daemon holds it
    │   ├── JournalTooNew            written by a newer rc-push
    │   ├── JournalFull              no room left, on the disk or within max_bytes
    │   └── JournalCorrupt           the file is damaged
    ├── ControlError             the running daemon cannot be asked, or says no
    │   ├── NotRunning               no daemon is running                             exit 3
    │   └── NoAnswer                 it hangs, or has ended just now
    ├── HandlerError             a handler cannot be loaded or opened                exit 78
    ├── RoutingError             a handler's rules cannot be applied to an event
    ├── Retry                    raised by a handler: later, not an error
    ├── Failed                   raised by a handler: this attempt went wrong
    └── Reject                   raised by a handler: park at once

The log gets the text of what a handler raises. What may hold the texts of messages (the output of a program, the answer
of a receiver) goes into its *detail*: the journal keeps it with the attempt, readable by its owner alone.

Knows only facts; a secret never enters a message.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DOWN = 3
EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70
EXIT_JOURNAL = 74
EXIT_REFUSED = 77
EXIT_CONFIG = 78

# More than a handler's 4 KB, also with its control characters spelled out.
DETAIL_MAX_LENGTH = 32 << 10
CAUSES_MAX = 10


def told(exc: BaseException) -> str:
    """Return what *exc* says; what it is called, where it says nothing."""
    return str(exc) or type(exc).__name__


class RcPushError(Exception):
    """The root. Raised when rc-push can say what went wrong; *exit_code* is what a command returns for it."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration: where it is, what was found, and the remedy."""

    key: str
    found: str
    remedy: str
    line: int | None = None
    warning: bool = False

    def __str__(self) -> str:
        """Return one line for people: *line 12: accounts.main.jwt: what was found; remedy*."""
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.key}: {self.found}; {self.remedy}"


class ConfigError(RcPushError):
    """Raised when the configuration has mistakes. *problems* holds all of them."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: list[Problem], *, path: str | None = None) -> None:
        self.problems = problems
        self.path = path
        super().__init__("\n".join(str(problem) for problem in problems))


class RestError(RcPushError):
    """Raised when RingCentral answered with an error: HTTP *status*, its *error_code* (``CMN-102``), its *message*."""

    def __init__(self, status: int, error_code: str = "", message: str = "", *, where: str = "") -> None:
        self.status = status
        self.error_code = error_code
        self.message = message
        self.where = where
        super().__init__(" ".join(part for part in (where, str(status), error_code, message) if part))


class RateLimited(RestError):
    """Raised when RingCentral answered 429. Nothing of the same group may be sent for *retry_after_s*."""

    def __init__(self, retry_after_s: float, error_code: str = "", message: str = "", *, where: str = "") -> None:
        self.retry_after_s = retry_after_s
        super().__init__(429, error_code, message, where=where)


class ServerError(RestError):
    """Raised when RingCentral answered 5xx. *retry_after_s* is what it asked for, if it did."""

    def __init__(
        self,
        status: int,
        error_code: str = "",
        message: str = "",
        *,
        where: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(status, error_code, message, where=where)


class RefusedError(RestError):
    """Raised when RingCentral refuses for good. *remedy* says who has to change what."""

    exit_code = EXIT_REFUSED

    def __init__(self, status: int, error_code: str, message: str, *, remedy: str, where: str = "") -> None:
        super().__init__(status, error_code, message, where=where)
        self.remedy = remedy

    @property
    def found(self) -> str:
        """The error without its remedy."""
        return super().__str__()

    def __str__(self) -> str:
        """Return the error with its remedy."""
        return f"{self.found}: {self.remedy}"


class CredentialsRefused(RefusedError):
    """Raised when the client id, the client secret, the JWT or the access token is not accepted."""


class PermissionRefused(RefusedError):
    """Raised when the app or the user lacks a permission (SUB-528, CMN-401, CMN-408 …)."""


class FiltersRefused(RefusedError):
    """Raised when RingCentral does not know an event filter: a mistake in the file."""

    exit_code = EXIT_CONFIG


class UnreachableError(RcPushError):
    """Raised when no answer came: DNS, TCP, TLS, proxy, or a time-out. *phase* says how far it got.

    *status* is set where something answered with HTTP all the same, *retry_after_s* where that asked us to wait.
    """

    exit_code = EXIT_UNREACHABLE

    def __init__(
        self, message: str, *, phase: str = "connect", status: int = 0, retry_after_s: float | None = None
    ) -> None:
        self.phase = phase
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UpgradeBlocked(UnreachableError):
    """Raised when HTTP works and WebSocket does not: *found* says how the upgrade ended. Trying often cannot help."""

    def __init__(self, found: str, *, status: int = 0, retry_after_s: float | None = None) -> None:
        self.found = found
        super().__init__(
            f"HTTP works, WebSocket is blocked: {found}; what is on the way (a proxy, a firewall) has to let WebSocket"
            " upgrades pass",
            phase="upgrade",
            status=status,
            retry_after_s=retry_after_s,
        )


class ProtocolError(RcPushError):
    """Raised when the server broke the gateway's rules. *beginning* is how the guilty frame starts."""

    def __init__(self, message: str, *, beginning: str = "") -> None:
        self.beginning = beginning
        super().__init__(f"{message}: {beginning}" if beginning else message)


class JournalError(RcPushError):
    """Raised when the journal cannot be opened, read or written."""

    exit_code = EXIT_JOURNAL


class JournalInUse(JournalError):
    """Raised when another process holds the journal."""


class JournalTooNew(JournalError):
    """Raised when the journal was written by a newer rc-push."""


class JournalFull(JournalError):
    """Raised when there is no room. Nothing was stored; the same write works again once there is."""


class JournalCorrupt(JournalError):
    """Raised when the journal's file is damaged. `run` moves it aside, and begins another with what can be read."""


class ControlError(RcPushError):
    """Raised when the running daemon cannot be asked, or says no; *exit_code* is then what it says."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class NotRunning(ControlError):
    """Raised when nobody listens on the control socket: no daemon is running with this configuration."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_DOWN)


class NoAnswer(ControlError):
    """Raised when the daemon listens and does not answer: it hangs, or has ended just now."""


class HandlerError(RcPushError):
    """Raised when a handler cannot be found, loaded or opened."""

    exit_code = EXIT_CONFIG


class RoutingError(RcPushError):
    """Raised when the rules of a handler cannot be applied to an event. What the event says is not in it."""


class Retry(RcPushError):
    """Raised by a handler that wants the event again in *delay_s* seconds. Not counted as a failure.

    *for_all*: nor does it want any other event before.
    """

    def __init__(self, delay_s: float = 1.0, *, for_all: bool = False) -> None:
        self.delay_s = max(0.0, float(delay_s))  # a mistake shows where it was made: in the handler
        self.for_all = for_all
        super().__init__(f"again in {self.delay_s:g} s")


class Failed(RcPushError):
    """Raised by a handler whose attempt went wrong: *reason* for the log, *detail* for the journal alone.

    Any other exception counts as a failure, too.
    """

    def __init__(self, reason: object, *, detail: str = "") -> None:
        self.reason = str(reason)
        self.detail = detail
        super().__init__(self.reason)


class Reject(RcPushError):
    """Raised by a handler that will never take this event: it is parked at once, with *reason* and *detail*."""

    def __init__(self, reason: object, *, detail: str = "") -> None:
        self.reason = str(reason)  # handlers like to pass on an exception
        self.detail = detail
        super().__init__(self.reason)


def is_retryable(exc: BaseException) -> bool:
    """Say whether another attempt at connecting can help after *exc*.

    Refusals and mistakes in the file stay what they are; everything else, known or not, is worth another try.
    """
    return isinstance(exc, Exception) and not isinstance(exc, (RefusedError, ConfigError, HandlerError))


def delay_asked_for_s(exc: BaseException) -> float:
    """Return how long the server itself asked us to wait, in seconds; 0 where it did not."""
    return float(getattr(exc, "retry_after_s", None) or 0.0)


def detail_of(exc: BaseException) -> str:
    """Return the *detail* of *exc*, or of what it was raised from: for the journal's record of an attempt, never a log.

    A handler that is cut by its time-out sets it on the CancelledError that it passes on. Empty where there is none.
    """
    cause: BaseException | None = exc
    for _ in range(CAUSES_MAX):  # a chain can be a ring
        if cause is None:
            break
        detail = vars(cause).get("detail")
        if isinstance(detail, str) and detail:
            return detail[:DETAIL_MAX_LENGTH]
        cause = cause.__cause__
    return ""
