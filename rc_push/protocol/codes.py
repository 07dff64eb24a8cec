"""What does each errorCode mean, and what is done about it? One table, for the code and for people.

Knows RingCentral's codes; knows nothing of how an answer came. `refusals` makes exceptions of them.

* retry: another attempt, after the ladder's delay or the one that the server asks for
* renew: what the code tells of is gone; another subscription or session takes its place, and a gap tells what is lost
* log in: the access token is dead; it is refreshed, and where that is refused, the account logs in. Refused again: stop
* stop: trying again cannot help until somebody does what the remedy says

What is not here is retried. Source: RingCentral's error table, and what was seen (protocol.md 1.5, 4.9, 4.10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["retry", "renew", "log in", "stop"]
# Who can change something: nobody but time, the account's credentials, the app's or the user's rights, the file.
Kind = Literal["other", "rate", "credentials", "permission", "filters"]


@dataclass(frozen=True, slots=True)
class Code:
    """One row: *status* is the HTTP status that it comes with, 0 where it comes in a frame. *remedy* is for people."""

    status: int
    means: str
    action: Action = "retry"
    kind: Kind = "other"
    remedy: str = ""


_CLIENT = "check client_id, client_secret and server of the account"
_FLOW = "enable the JWT auth flow for the app in RingCentral's Developer Console"
_TOKEN = "check access_token of the account, or jwt where it has one"  # noqa: S105 - a remedy
_USER = "the user of the account's jwt must be enabled in RingCentral and not locked out"
_GRANT = "check jwt of the account: it must belong to this app, and be neither expired nor deleted"
ANY_CREDENTIALS = "check client_id, client_secret and jwt (or access_token) of the account"
_APP = "give the app {permission} in RingCentral's Developer Console"
_ROLE = "give the user {permission} by a role in RingCentral's Admin Portal"
_FILTER = "take the event filter out of event_filters, or let RingCentral's administrator give the user access to it"
_FILTERS = "correct event_filters of the subscription"
_REMINDER = "correct the reminder among event_filters of the subscription, or take it out"
TRANSPORT = "choose another transport for the subscription: RingCentral does not offer this one any more"
_LIMIT = "end subscriptions that nobody needs: rc-push subscriptions lists them"


def _stop(kind: Kind, remedy: str, status: int, means: str) -> Code:
    return Code(status, means, "stop", kind, remedy)


def _login(means: str) -> Code:
    return Code(401, means, "log in", "credentials", _TOKEN)


CODES: dict[str, Code] = {
    # OAuth
    "OAU-123": _login("invalid Authorization header value"),
    "OAU-125": _stop("credentials", _FLOW, 401, "the grant type is not allowed for the app"),
    "OAU-127": _stop("credentials", _CLIENT, 401, "invalid application"),
    "OAU-128": _login("the access token has expired"),
    "OAU-129": _login("the access token is corrupted"),
    "OAU-134": _login("invalid Authorization header"),
    "OAU-136": _stop("credentials", _USER, 401, "the extension is not found"),
    "OAU-140": _stop("credentials", _GRANT, 401, "invalid resource owner credentials"),
    "OAU-141": _stop("credentials", _USER, 401, "the extension must not log in in its present state"),
    "OAU-142": _stop("credentials", _USER, 401, "the account must not log in in its present state"),
    "OAU-146": _stop("credentials", _CLIENT, 401, "invalid client credentials"),
    "OAU-147": _stop("credentials", _USER, 400, "the account is locked after too many failed logins"),
    "OAU-149": _login("the token cannot be read"),
    "OAU-151": _stop("credentials", _FLOW, 401, "the authorization method is not supported"),
    "OAU-153": _stop("credentials", _CLIENT, 400, "invalid client"),
    "OAU-165": Code(401, "refused without a word", "log in", "credentials", ANY_CREDENTIALS),
    "OAU-210": Code(400, "the refresh token, or the JWT, has expired", "log in", "credentials", _GRANT),
    "OAU-213": _login("the token is not known: revoked, or another has taken its place"),
    "OAU-232": _stop("credentials", _USER, 400, "the extension is not found"),
    "OAU-236": _stop("credentials", _USER, 400, "the extension is disabled or frozen"),
    "OAU-250": _stop("credentials", _FLOW, 400, "the grant type is not supported"),
    "OAU-251": _stop("credentials", _FLOW, 400, "the app may not use this grant type"),
    "AGW-401": _login("there is no Authorization header"),
    "AGW-402": _login("the Authorization header is refused"),
    # Requests
    "CMN-101": Code(400, "a parameter is invalid; where it is eventFilters or deliveryMode: stop"),
    "CMN-102": Code(404, "the subscription is not there any more", "renew"),
    "CMN-103": Code(400, "the JSON cannot be parsed"),
    "CMN-104": Code(400, "the request cannot be parsed"),
    "CMN-120": Code(404, "invalid URI"),
    "CMN-201": Code(503, "the service is unavailable for the moment"),
    "CMN-203": Code(500, "an error inside RingCentral"),
    "CMN-301": Code(429, "too many requests", kind="rate"),
    "CMN-302": Code(429, "too many requests", kind="rate"),
    "CMN-303": Code(429, "the limits cannot be found out", kind="rate"),
    "CMN-304": Code(429, "the same request is being done", kind="rate"),
    "CMN-310": Code(429, "too many requests by everybody together", kind="rate"),
    "CMN-401": _stop("permission", _APP, 403, "the app lacks a permission"),
    "CMN-404": _stop("permission", _FILTER, 403, "the extension is somebody else's"),
    "CMN-405": _login("a login to the extension is needed"),
    "CMN-408": _stop("permission", _ROLE, 403, "the user lacks a permission"),
    # Synchronisation
    **{f"CLG-{number}": Code(400, "the sync token of the call log has expired") for number in range(101, 106)},
    "MSG-333": Code(400, "the sync token of the message store has expired"),
    # Subscriptions
    "SUB-402": _stop("permission", _FILTER, 403, "extensions of this type have no presence"),
    "SUB-403": _stop("permission", _FILTER, 403, "the user's presence must not be monitored"),
    "SUB-404": _stop("permission", _FILTER, 403, "the user's calls must not be picked up"),
    "SUB-405": _stop("permission", _FILTER, 403, "messages of other extensions"),
    "SUB-406": _stop("permission", _FILTER, 403, "extensions of another account"),
    "SUB-407": _stop("permission", _FILTER, 403, "APNS without an endpoint_id"),
    "SUB-408": _stop("permission", _FILTER, 403, "an unknown user"),
    "SUB-412": _stop("permission", _FILTER, 403, "the extension lacks a permission"),
    "SUB-505": Code(403, "too many subscriptions of this app and user", remedy=_LIMIT),
    "SUB-507": Code(404, "the subscription has expired", "renew"),
    "SUB-508": _stop("filters", _FILTERS, 400, "invalid event filters"),
    "SUB-509": Code(400, "only PubNub subscriptions can be looked for so"),
    "SUB-511": Code(405, "not allowed for an APNS subscription"),
    "SUB-515": _stop("filters", _REMINDER, 400, "a reminder cannot be the only event filter"),
    "SUB-516": _stop("filters", _REMINDER, 400, "invalid numbers of a reminder"),
    "SUB-518": Code(403, "not documented"),
    "SUB-520": Code(400, "a webhook has not returned its validation token"),
    "SUB-521": Code(400, "a webhook cannot be reached"),
    "SUB-522": Code(400, "a webhook has answered with a wrong status"),
    "SUB-523": Code(400, "a webhook has no HTTPS"),
    "SUB-524": Code(400, "a webhook's certificate is not valid"),
    "SUB-525": Code(400, "a webhook has answered with something invalid"),
    "SUB-527": _stop("permission", _FILTER, 403, "missed calls of another extension"),
    "SUB-528": _stop("permission", _APP, 403, "the app lacks the permission for this transport"),
    "SUB-530": Code(400, "not documented"),
    "SUB-531": Code(400, "not documented"),
    # The gateway
    "WSG-400": Code(0, "the recovery token is malformed: it is forgotten", "renew"),
    "WSG-902": Code(0, "silent for too long: connected again, with recovery"),
    "WSG-903": Code(0, "connected for too long: connected again, with recovery"),
    "WSG-1003": Code(0, "the session to recover is another login's", "renew"),
    "WSG-1005": Code(0, "the session to recover has no subscription", "renew"),
}

# What OAuth says where it gives no errorCode (RFC 6749, and RingCentral's OAuthInvalidRequest).
OAUTH_REMEDIES = {
    "invalid_client": _CLIENT,
    "unauthorized_client": _FLOW,
    "unsupported_grant_type": _FLOW,
    "invalid_grant": _GRANT,
}
