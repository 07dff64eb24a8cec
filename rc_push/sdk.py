"""How does RingCentral's own SDK make our requests? One Platform a call, over our HTTP.

It blocks, so all of this runs in worker threads. Knows the SDK; knows nothing of limits or of what is asked for.

Rules for editors:
* The SDK is imported when it is used first: a command that needs none does not pay 100 ms for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rc_push import __version__
from rc_push.config import AccountConfig
from rc_push.http import Answer, Http
from rc_push.oauth import OAuthSession

TOKEN_PATH = "/restapi/oauth/token"  # noqa: S105 - a path
WSTOKEN_PATH = "/restapi/oauth/wstoken"
REVOKE_PATH = "/restapi/oauth/revoke"


@dataclass(frozen=True, slots=True)
class Request:
    """One REST request. *name* is what people see: a query may hold numbers and names of others."""

    method: str
    path: str
    query: Mapping[str, str | int] | None = None
    body: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What it is called for people."""
        return f"{self.method} {self.path.partition('?')[0]}"

    @property
    def is_scarce(self) -> bool:
        """Say whether it counts for the Auth group, of which five a minute are allowed."""
        return self.path in (TOKEN_PATH, WSTOKEN_PATH, REVOKE_PATH)


TOKEN = Request("POST", TOKEN_PATH)
WSTOKEN = Request("POST", WSTOKEN_PATH)
REVOKE = Request("POST", REVOKE_PATH)


def platform_from(config: AccountConfig, http: Http) -> Any:
    """Return the SDK's Platform. Each call has its own: it holds tokens, and does not lock them."""
    from ringcentral.http import Client  # noqa: PLC0415 - see the top
    from ringcentral.platform import Platform  # noqa: PLC0415

    class PooledClient(Client):  # type: ignore[misc] # the SDK is untyped
        def send(self, request: Any) -> Answer:
            return http.send(request)

    server, secret = config.server.rstrip("/"), config.client_secret.reveal() if config.client_secret else ""
    return Platform(PooledClient(), config.client_id or "", secret, server, "rc-push", __version__)


def refresh(platform: Any, session: OAuthSession) -> Answer:
    """Ask for other tokens of *session*."""
    platform.auth().set_data({"refresh_token": session.refresh_token, "refresh_token_expire_time": math.inf})
    answer: Answer = platform.refresh()
    return answer


def revoke(platform: Any, session: OAuthSession) -> Answer:
    """End *session*."""
    platform.auth().set_data({"access_token": session.access_token})
    answer: Answer = platform.logout()
    return answer


def call(platform: Any, session: OAuthSession, request: Request) -> Answer:
    """Make *request* with the token of *session*."""
    # For the SDK the token never expires: it would refresh in here, once per thread.
    platform.auth().set_data({"token_type": "Bearer", "access_token": session.access_token, "expire_time": math.inf})
    pairs = list(request.query.items()) if request.query else None  # the SDK does not quote what is in a dict
    create = platform._client.create_request  # noqa: SLF001 - the same as its get, post …, for any method
    answer: Answer = platform.send_request(create(request.method, request.path, query_params=pairs, body=request.body))
    return answer
