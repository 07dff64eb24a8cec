"""What do RingCentral's OAuth endpoints do? See protocol.md 2 and 4.1."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import parse_qsl

from rc_push.simulator.answers import Answer, Call, Refused, invalid, oauth_error, rest_error
from rc_push.simulator.people import User
from rc_push.simulator.state import World
from rc_push.simulator.tokens import Grant, Lifetimes

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FORM = "application/x-www-form-urlencoded"
# Bounds of what a client may ask for, in seconds. Source: the specification's GetTokenRequest.
ACCESS_TTL_S = (600, 3600)
REFRESH_TTL_S = (1, 2_592_000)


def token(world: World, call: Call) -> Answer:
    """Grant tokens for a JWT or for a refresh token."""
    form = _form(call)
    _check_client(world, call)
    grant_type = form.get("grant_type")
    if grant_type not in (JWT_BEARER, "refresh_token"):
        raise oauth_error(400, "invalid_request", "OAU-250", "Unsupported grant type")
    is_login = grant_type == JWT_BEARER
    assertion, refresh_token = form.get("assertion", ""), form.get("refresh_token", "")
    user = world.users.get(assertion) if is_login else world.tokens.user_of(refresh_token)
    world.limits.take(user.extension_id if user else "", "auth", call.rate_headers)
    lifetimes = Lifetimes(_ttl(form, "access_token_ttl", ACCESS_TTL_S), _ttl(form, "refresh_token_ttl", REFRESH_TTL_S))
    if is_login:
        grant = world.tokens.login(_known(user, world), form.get("endpoint_id", ""), lifetimes)
    elif not world.knobs.refresh_tokens:
        raise oauth_error(400, "unauthorized_client", "OAU-251", "Unauthorized for this grant type")
    else:
        grant = world.tokens.refresh(refresh_token, lifetimes)
    return Answer(200, _token_info(world, grant), {"Cache-Control": "no-store"})


def revoke(world: World, call: Call) -> Answer:
    """End the whole session of a token, which comes in the form or in the query."""
    _check_client(world, call)
    form = _form(call) if call.body else {}
    value = form.get("token") or call.query.get("token", "")
    user = world.tokens.user_of(value)
    world.limits.take(user.extension_id if user else "", "auth", call.rate_headers)
    world.tokens.revoke(value)
    return Answer(200)


def wstoken(world: World, call: Call) -> Answer:
    """Give out a token for one connection to the gateway."""
    assert call.oauth is not None  # noqa: S101 - the table in rest.py says that the caller is known
    if "WebSocket" not in world.knobs.permissions:
        raise rest_error(403, "CMN-401", "Specific application permission required", permissionName="WebSocket")
    value, lifetime_s = world.tokens.ws_token(call.oauth)
    return Answer(200, {"uri": world.gateway_url, "ws_access_token": value, "expires_in": lifetime_s})


def _form(call: Call) -> dict[str, str]:
    if call.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refused(Answer(415))
    return dict(parse_qsl(call.body.decode("utf-8", "replace")))


def _check_client(world: World, call: Call) -> None:
    """Raise Refused where the Basic credentials are not the app's."""
    scheme, _, value = call.headers.get("authorization", "").partition(" ")
    try:
        pair = base64.b64decode(value, validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:  # no base64, or no text in it
        pair = ""
    client_id, _, client_secret = pair.partition(":")
    if (client_id, client_secret) != (world.app.client_id, world.app.client_secret):
        status = world.knobs.bad_client_status
        raise oauth_error(status, "invalid_client", "OAU-153", f"Invalid client: {client_id}", client_id=client_id)


def _known(user: User | None, world: World) -> User:
    if user is None:
        raise oauth_error(400, "invalid_grant", world.knobs.bad_jwt_code, "Invalid resource owner credentials")
    return user


def _ttl(form: dict[str, str], name: str, bounds: tuple[int, int]) -> float | None:
    if name not in form:
        return None
    low, high = bounds
    if not re.fullmatch("[0-9]{1,9}", form[name]) or not low <= int(form[name]) <= high:
        raise invalid(name)
    return float(form[name])


def _token_info(world: World, grant: Grant) -> dict[str, Any]:
    session = grant.access.session
    info: dict[str, Any] = {
        "access_token": grant.access.value,
        "token_type": "bearer",
        "expires_in": announced_s(grant.access.lifetime_s),
        "scope": " ".join(world.knobs.permissions),
        "owner_id": session.user.extension_id,
        "endpoint_id": session.endpoint_id,
        "session_id": session.id,
    }
    if grant.refresh:
        info["refresh_token"] = grant.refresh.value
        info["refresh_token_expires_in"] = announced_s(grant.refresh.lifetime_s)
    return info


def announced_s(lifetime_s: int) -> int:
    """Return how RingCentral announces a lifetime: it has begun to run, so 3600 is told as 3599."""
    return max(1, lifetime_s - 1)
