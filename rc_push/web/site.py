"""Who may ask for which page? Those that name this machine as it is called here, and have the token where there is one.

An ASGI application of pages that change nothing. Knows HTTP; knows nothing of sockets.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rc_push.measures import Refusals

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Page = Callable[[], Awaitable[Answer]]


def json_answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """Return *content* as an answer."""
    return Answer(status, json.dumps(content).encode() + b"\n", JSON, headers or {})


class Site:
    """*pages* by their paths. *hosts* are names of this machine, beside its addresses; *token* is what one must have.

    The name has to be right since a browser can be led to a loopback address under a stranger's name (DNS rebinding);
    an address is no such name. *refused* counts what was not answered, by reason.
    """

    def __init__(self, pages: Mapping[str, Page], hosts: Iterable[str] = (), token: str | None = None) -> None:
        self._pages = pages
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._token = token
        self.refused = Refusals()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Answer one request (ASGI)."""
        answer = await self._answer(scope["method"], scope["path"], scope["headers"])
        body = b"" if scope["method"] == "HEAD" else answer.body
        headers = {
            "content-type": answer.media_type,
            "content-length": str(len(answer.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **answer.headers,
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Answer:
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0].decode("latin-1")):
            return self._refuse(
                "host", 421, {"error": "no name of this machine; ask by its address, or see [web] hosts"}
            )
        if not self._has_token([value for name, value in headers if name == b"authorization"]):
            challenge = {"www-authenticate": 'Bearer realm="rc-push"'}
            return self._refuse("bearer", 401, {"error": "it takes the token of [web]"}, challenge)
        if path not in self._pages:
            return self._refuse("page", 404, {"error": "no such page", "pages": list(self._pages)})
        if method not in {"GET", "HEAD"}:
            return self._refuse("method", 405, {"error": "pages can be read only"}, {"allow": "GET, HEAD"})
        return await self._pages[path]()

    def _refuse(self, why: str, status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
        self.refused[why] += 1
        return json_answer(status, content, headers)

    def _is_ours(self, host: str) -> bool:
        name = _name_in(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def _has_token(self, given: list[bytes]) -> bool:
        if self._token is None:
            return True
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token.encode())


def _name_in(host: str) -> str:
    """Return the name in a Host header, without its port: `localhost:9464`, `[::1]:9464`."""
    if host.startswith("["):
        name, bracket, _ = host[1:].partition("]")
        return name if bracket else ""
    return host.partition(":")[0].rstrip(".").lower()
