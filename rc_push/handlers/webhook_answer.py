"""What does a receiver's answer mean? Done, again later, or never; and whether it took the validation.

Knows HTTP's status codes and what a handler may raise; knows nothing of connections. What a receiver says is its
owner's, and can repeat the event: it goes into the *detail* that the journal alone keeps, our secrets cut out of it.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from http import HTTPStatus
from urllib.parse import urlsplit

from rc_push.config import Secret
from rc_push.errors import Failed, HandlerError, Reject, Retry, UnreachableError
from rc_push.handlers.webhook_request import VALIDATION_TOKEN
from rc_push.log import HIDDEN

# What is kept of an answer's body.
KEPT_MAX_BYTES = 4096
# A receiver that asks for nothing gets a breath; one that asks for years has its clock wrong.
RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 3600.0
HOST_MAX_LENGTH = 100
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
# Not the event's fault.
_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: *beginning* is the first part of the body, or all of it. *origin* says whose answer it is."""

    origin: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    beginning: bytes = field(default=b"", repr=False)

    @property
    def is_for_later(self) -> bool:
        """Say whether the same request may be taken another time."""
        return self.status in _LATER or 500 <= self.status <= 599  # noqa: PLR2004 - an HTTP status says it best

    @property
    def is_redirect(self) -> bool:
        """Say whether it names another address, or would."""
        return 300 <= self.status <= 399  # noqa: PLR2004 - see above

    def __str__(self) -> str:
        """Return it in one line, in words of HTTP's rather than the receiver's."""
        return f"{self.origin} answered {self.status} {_PHRASES.get(self.status, 'which HTTP does not know')}"


def judge(answer: Answer, secrets: Sequence[Secret], now_s: float) -> None:
    """Return where the event is done. Raises Retry, Failed or Reject; *now_s* is since 1970.

    `Retry-After` is `Retry`, not a failure: the receiver works and asks for time, as the event would be taken at
    another. Counted as failures, a burst above its rate limit would be parked. It has 4xx for what it never wants.
    It asks for all events, not for the one it refused.
    """
    if 200 <= answer.status <= 299:  # noqa: PLR2004 - see above
        return
    if answer.is_redirect:
        raise Reject(_redirect(answer))
    detail = told(answer.beginning, secrets)
    if not answer.is_for_later and 400 <= answer.status <= 499:  # noqa: PLR2004 - see above
        raise Reject(str(answer), detail=detail)
    failure = Failed(str(answer), detail=detail)
    delay_s = retry_after_s(answer.headers.get("Retry-After", ""), now_s) if answer.is_for_later else None
    if delay_s is not None:
        raise Retry(delay_s, for_all=True) from failure
    raise failure


def judge_validation(answer: Answer, token: str) -> None:
    """Return where the receiver has echoed *token* as RingCentral asks for it.

    Raises UnreachableError where it may do so later, HandlerError where it will not.
    """
    if answer.is_for_later:
        raise UnreachableError(f"{answer} to the validation request; look into the receiver's log", phase="answer")
    if answer.is_redirect:
        raise HandlerError(_redirect(answer))
    if answer.status != HTTPStatus.OK:
        raise HandlerError(f"{answer} to the validation request; {_VALIDATION_REMEDY}")
    echoed = answer.headers.get(VALIDATION_TOKEN)
    if echoed != token:
        found = "does not echo" if echoed is None else "echoes another"
        raise HandlerError(f"{answer.origin} {found} {VALIDATION_TOKEN}; {_VALIDATION_REMEDY}")


_VALIDATION_REMEDY = (
    f"a request with the header {VALIDATION_TOKEN} has to be answered with 200 and the same header, "
    "unless validate = false"
)


def retry_after_s(value: str, now_s: float) -> float | None:
    """Return for how long a `Retry-After` of *value* asks, within bounds; None where it does not.

    Both forms: seconds, or a date. Source: RFC 9110, section 10.2.3.
    """
    if re.fullmatch("[0-9]+", value):
        delay_s = RETRY_AFTER_MAX_S if len(value) > len(str(int(RETRY_AFTER_MAX_S))) else float(value)
    else:
        try:
            at = email.utils.parsedate_to_datetime(value)
            # Without a zone, as in asctime's form, it is in UTC. Source: RFC 9110, section 5.6.7.
            delay_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(delay_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


def _redirect(answer: Answer) -> str:
    """Say where *answer* points: to a host, not to a path, which can hold a token."""
    try:
        host = urlsplit(answer.headers.get("Location", "")).hostname
    except ValueError:
        host = None
    shown = host[:HOST_MAX_LENGTH] if host and host.isprintable() else "another path of its own"
    return f"{answer}, pointing to {shown}; redirects are not followed: name the final address in url"


def told(body: bytes, secrets: Sequence[Secret]) -> str:
    """Return the beginning of *body* as a text. A receiver may show what it got, our secrets with it."""
    text = body.decode(errors="replace")
    for secret in secrets:
        text = text.replace(secret.reveal(), HIDDEN)
    return text[:KEPT_MAX_BYTES]
