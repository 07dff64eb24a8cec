"""What does RingCentral's REST API say, and how does it say no? One form for HTTPS and for the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from rc_push.simulator.state import GatewaySession
    from rc_push.simulator.tokens import OAuthSession


@dataclass(slots=True)
class Call:
    """One REST request. *gateway* is the session that it came over, None over HTTPS; *oauth* is who asks, once known.

    What is known of the rate limit gathers in *rate_headers*, for answers and refusals alike.
    """

    method: str
    path: str
    body: bytes = b""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    gateway: GatewaySession | None = None
    oauth: OAuthSession | None = None
    ids: dict[str, str] = field(default_factory=dict)
    rate_headers: dict[str, str] = field(default_factory=dict)

    @property
    def via(self) -> Literal["https", "wsg"]:
        """Say which way it came."""
        return "wsg" if self.gateway else "https"

    def json(self) -> dict[str, Any]:
        """Return the body's object, empty where there is no body. Raises Refused."""
        if not self.body.strip() or self.body == b'""':  # RingCentral.Net sends "" for nothing
            return {}
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise rest_error(400, "CMN-103", "JSON can't be parsed") from None
        if not isinstance(value, dict):
            raise rest_error(400, "CMN-104", "Cannot parse request")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body (None = none) and the headers that are more than usual.

    *later* gives the true answer, where that takes a look at somebody else first; it raises Refused.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    later: Callable[[], Awaitable[Answer]] | None = None

    def content(self) -> bytes:
        """Return the body's bytes."""
        return b"" if self.body is None else msgspec.json.encode(self.body)


class Refused(Exception):
    """Raised when the simulated RingCentral says no, with the answer that says it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.status)


def rest_error(
    status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **attributes: str
) -> Refused:
    """Return the refusal in the form of the REST API: the first error repeated on top (protocol.md 1.2)."""
    error = {"errorCode": code, "message": message}
    body = error | {"errors": [error | attributes]}
    return Refused(Answer(status, body, headers or {}))


def oauth_error(status: int, error: str, code: str, message: str, **parameter: str) -> Refused:
    """Return the refusal in the form of OAuth plus RingCentral's `errors` (protocol.md 2.6)."""
    entry: dict[str, Any] = {"errorCode": code, "message": message}
    if parameter:
        entry["parameters"] = [{"parameterName": name, "parameterValue": value} for name, value in parameter.items()]
    return Refused(Answer(status, {"error": error, "errors": [entry], "error_description": message}))


def not_found(parameter: str) -> Refused:
    """Return the refusal of an id that nobody knows."""
    message = f"Resource for parameter [{parameter}] is not found"
    return rest_error(404, "CMN-102", message, parameterName=parameter)


def invalid(parameter: str) -> Refused:
    """Return the refusal of a value that makes no sense."""
    return rest_error(400, "CMN-101", f"Parameter [{parameter}] value is invalid", parameterName=parameter)
