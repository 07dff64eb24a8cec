"""What does a refused request mean, and who can change it? From status and body to one exception of `errors`.

Knows RingCentral's error bodies; what each code means stands in `codes`. Knows nothing of how the answer came (REST, or
the gateway).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from rc_push.errors import CredentialsRefused, FiltersRefused, PermissionRefused, RateLimited, RestError, ServerError
from rc_push.protocol.codes import ANY_CREDENTIALS, CODES, OAUTH_REMEDIES, TRANSPORT

# Where a 429 says nothing else. Source: RingCentral's rate limit guide, "at least 30 seconds".
SILENCE_S = 30.0
MESSAGE_MAX_CHARS = 300
CODE_MAX_CHARS = 40
# Shorter secrets cannot be told from ordinary words.
SECRET_MIN_CHARS = 8

# RFC 6749 and RingCentral's OAuthInvalidRequest. Other services put any text into "error".
OAUTH_ERRORS = frozenset(
    {
        "access_denied",
        "expired_token",
        "insufficient_scope",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What an error body says. *oauth_error* is set in OAuth's shape only."""

    code: str = ""
    message: str = ""
    oauth_error: str = ""


def error_from_response(
    status: int,
    body: bytes,
    *,
    where: str = "",
    retry_after_s: float | None = None,
    secrets: Collection[str] = (),
) -> RestError:
    """Return what the refused answer of *status* with *body* means; raise nothing, whatever the body is.

    *where* names the request for people. *retry_after_s* is what the server asked for, in seconds. None of *secrets* is
    in what is returned.
    """
    refusal = _refusal_from(body, secrets)
    code, message = refusal.code or refusal.oauth_error, refusal.message
    # The gateway's own status of an error is not documented, so that codes count there as the status does for REST.
    row = CODES.get(refusal.code)
    kind = row.kind if row else "other"
    if status == 429 or kind == "rate":  # noqa: PLR2004 - an HTTP status says it best
        return RateLimited(SILENCE_S if retry_after_s is None else retry_after_s, code, message, where=where)
    if status >= 500:  # noqa: PLR2004
        return ServerError(status, code, message, where=where, retry_after_s=retry_after_s)
    if row and kind == "permission":
        return PermissionRefused(status, code, message, remedy=remedy_for(code, message), where=where)
    remedy = _mistake_in(refusal)
    if remedy:
        return FiltersRefused(status, code, message, remedy=remedy, where=where)
    if status == 401 or kind == "credentials" or refusal.code.startswith("OAU-") or refusal.oauth_error:  # noqa: PLR2004
        return CredentialsRefused(status, code, message, remedy=_credential_remedy(refusal), where=where)
    return RestError(status, code, f"{message}; {row.remedy}" if row and row.remedy else message, where=where)


def remedy_for(code: str, message: str) -> str:
    """Return what people can do about *code*, with the permission that *message* names; empty where nothing helps."""
    row = CODES.get(code)
    return row.remedy.format(permission=_permission_in(message)) if row else ""


def over_gateway(exc: RestError) -> RestError:
    """Return what *exc* means as the answer to a request over a connection to the gateway.

    That the session is over or the token dead, the next connection finds out: it asks for a token over REST, which is
    where credentials are refused for good.
    """
    if isinstance(exc, CredentialsRefused):
        return RestError(exc.status, exc.error_code, exc.message, where=exc.where)
    return exc


def _mistake_in(refusal: _Refusal) -> str:
    """Return the remedy where *refusal* tells of a mistake in the file; empty where it does not."""
    if refusal.code == "CMN-101":
        named = {"eventFilters": CODES["SUB-508"].remedy, "deliveryMode": TRANSPORT}
        return next((remedy for name, remedy in named.items() if name in refusal.message), "")
    row = CODES.get(refusal.code)
    return row.remedy if row and row.kind == "filters" else ""


def _credential_remedy(refusal: _Refusal) -> str:
    row = CODES.get(refusal.code)
    if row and row.kind == "credentials":
        return row.remedy
    return OAUTH_REMEDIES.get(refusal.oauth_error, ANY_CREDENTIALS)


def _permission_in(message: str) -> str:
    """Return the permission that *message* names: "[ReadMessages] permission required"."""
    found = re.search(r"\[(\w+)\]", message)
    return f"the permission {found[1]}" if found else "the missing permission"


def _refusal_from(body: bytes, secrets: Collection[str]) -> _Refusal:
    """Return what *body* says, in one of two shapes (protocol.md 1.2, 2.6); nothing where it is neither.

    {"errorCode":"CMN-102","message":"…","errors":[{"errorCode":"CMN-102","message":"…"}]}
    {"error":"invalid_grant","error_description":"…","errors":[{"errorCode":"OAU-210","message":"Token expired"}]}
    """
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Refusal()
    if not isinstance(raw, dict):
        return _Refusal()
    first = _first_of(raw.get("errors"))
    oauth_error = raw.get("error")
    message = raw.get("message") or raw.get("error_description") or first.get("message")
    return _Refusal(
        code=clean(raw.get("errorCode") or first.get("errorCode"), CODE_MAX_CHARS, secrets),
        message=clean(message, MESSAGE_MAX_CHARS, secrets),
        oauth_error=oauth_error if isinstance(oauth_error, str) and oauth_error in OAUTH_ERRORS else "",
    )


def _first_of(errors: Any) -> dict[str, Any]:
    return errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}


def clean(text: Any, max_chars: int, secrets: Collection[str] = ()) -> str:
    """Return *text* as one short line without *secrets*: it goes to terminals and logs, and a server may quote."""
    if not isinstance(text, str):
        return ""
    for secret in secrets:
        if len(secret) >= SECRET_MIN_CHARS:
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:max_chars]
