"""What does a refused request mean, and who can change it? From status and body to one exception of `errors`.

Knows RingCentral's error bodies and codes; knows nothing of how the answer came (REST, or the gateway).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from rc_push.errors import CredentialsRefused, FiltersRefused, PermissionRefused, RateLimited, RestError, ServerError

# Where a 429 says nothing else. Source: RingCentral's rate limit guide, "at least 30 seconds".
SILENCE_S = 30.0
MESSAGE_MAX_CHARS = 300
CODE_MAX_CHARS = 40

# The gateway's own status of an error is not documented, so that codes count there as the status does for REST.
RATE_CODES = frozenset({"CMN-301", "CMN-302", "CMN-303", "CMN-304", "CMN-310"})

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

_CLIENT = "check client_id, client_secret and server of the account"
_FLOW = "enable the JWT auth flow for the app in RingCentral's Developer Console"
_TOKEN = "check access_token of the account, or jwt where it has one"  # noqa: S105 - a remedy
_USER = "the user of the account's jwt must be enabled in RingCentral and not locked out"
_GRANT = "check jwt of the account: it must belong to this app, and be neither expired nor deleted"
_CREDENTIALS = "check client_id, client_secret and jwt (or access_token) of the account"
CREDENTIAL_REMEDIES = {
    "OAU-127": _CLIENT,
    "OAU-146": _CLIENT,
    "OAU-153": _CLIENT,
    "invalid_client": _CLIENT,
    "OAU-125": _FLOW,
    "OAU-250": _FLOW,
    "OAU-251": _FLOW,
    "unauthorized_client": _FLOW,
    "unsupported_grant_type": _FLOW,
    "OAU-123": _TOKEN,
    "OAU-128": _TOKEN,
    "OAU-129": _TOKEN,
    "OAU-134": _TOKEN,
    "OAU-149": _TOKEN,
    "OAU-213": _TOKEN,
    "OAU-136": _USER,
    "OAU-141": _USER,
    "OAU-142": _USER,
    "OAU-147": _USER,
    "OAU-232": _USER,
    "OAU-236": _USER,
    "OAU-140": _GRANT,
    "OAU-210": _GRANT,
    "invalid_grant": _GRANT,
}

_APP = "give the app {permission} in RingCentral's Developer Console"
_ROLE = "give the user {permission} by a role in RingCentral's Admin Portal"
_FILTER = "take the event filter out of event_filters, or let RingCentral's administrator give the user access to it"
PERMISSION_REMEDIES = {
    "CMN-401": _APP,
    "CMN-408": _ROLE,
    "SUB-528": _APP,
    **{f"SUB-{number}": _FILTER for number in range(402, 409)},
}


_FILTERS = "correct event_filters of the subscription"
FILTER_CODES = ("SUB-508", "CMN-101")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What an error body says. *oauth_error* is set in OAuth's shape only."""

    code: str = ""
    message: str = ""
    oauth_error: str = ""


def error_from_response(status: int, body: bytes, *, where: str = "", retry_after_s: float | None = None) -> RestError:
    """Return what the refused answer of *status* with *body* means; raise nothing, whatever the body is.

    *where* names the request for people. *retry_after_s* is what the server asked for, in seconds.
    """
    refusal = _refusal_from(body)
    code, message = refusal.code or refusal.oauth_error, refusal.message
    if status == 429 or refusal.code in RATE_CODES:  # noqa: PLR2004 - an HTTP status says it best
        return RateLimited(SILENCE_S if retry_after_s is None else retry_after_s, code, message, where=where)
    if status >= 500:  # noqa: PLR2004
        return ServerError(status, code, message, where=where, retry_after_s=retry_after_s)
    if refusal.code in PERMISSION_REMEDIES:
        remedy = PERMISSION_REMEDIES[refusal.code].format(permission=_permission_in(message))
        return PermissionRefused(status, code, message, remedy=remedy, where=where)
    if refusal.code in FILTER_CODES and (refusal.code != "CMN-101" or "eventFilters" in message):
        return FiltersRefused(status, code, message, remedy=_FILTERS, where=where)
    if status == 401 or refusal.code.startswith("OAU-") or refusal.oauth_error:  # noqa: PLR2004
        return CredentialsRefused(status, code, message, remedy=_credential_remedy(refusal), where=where)
    return RestError(status, code, message, where=where)


def _credential_remedy(refusal: _Refusal) -> str:
    by_code = CREDENTIAL_REMEDIES.get(refusal.code)
    return by_code or CREDENTIAL_REMEDIES.get(refusal.oauth_error, _CREDENTIALS)


def _permission_in(message: str) -> str:
    """Return the permission that *message* names: "[ReadMessages] permission required"."""
    found = re.search(r"\[(\w+)\]", message)
    return f"the permission {found[1]}" if found else "the missing permission"


def _refusal_from(body: bytes) -> _Refusal:
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
    return _Refusal(
        code=_clean(raw.get("errorCode") or first.get("errorCode"), CODE_MAX_CHARS),
        message=_clean(raw.get("message") or raw.get("error_description") or first.get("message"), MESSAGE_MAX_CHARS),
        oauth_error=oauth_error if isinstance(oauth_error, str) and oauth_error in OAUTH_ERRORS else "",
    )


def _first_of(errors: Any) -> dict[str, Any]:
    return errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}


def _clean(text: Any, max_chars: int) -> str:
    """Return *text* as one short line: it goes to terminals and logs."""
    if not isinstance(text, str):
        return ""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:max_chars]
