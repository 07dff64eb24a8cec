"""How is PubNub spoken to? Its own HTTP, on the port of the REST API (protocol.md 5.3).

Knows paths, answers and the ways to break off; what is waited for stands in `channels.py`.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rc_push.simulator import rest
from rc_push.simulator.channels import Poll
from rc_push.simulator.faults import PollFault, PubNubDrop, PubNubError, PubNubForbidden
from rc_push.simulator.state import CallRecord, World

SUBSCRIBE = "/v2/subscribe/{subscriber_key}/{channels}/0"
PRESENCE = "/v2/presence/sub-key/{subscriber_key}/channel/{channels}"
TIMETOKEN_MAX_DIGITS = 19
HEADERS = {"Content-Type": 'text/javascript; charset="UTF-8"', "Cache-Control": "no-cache"}


class Endpoints:
    """What PubNub answers. *reset* ends the TCP connection of a request."""

    def __init__(self, world: World, reset: Callable[[Request], None]) -> None:
        self._world = world
        self._reset = reset

    def routes(self) -> list[Route]:
        """Return the HTTP side."""
        return [
            Route(SUBSCRIBE, self.subscribe, methods=["GET"]),
            Route(f"{PRESENCE}/heartbeat", self.heartbeat, methods=["GET"]),
            Route(f"{PRESENCE}/leave", self.leave, methods=["GET"]),
            Route("/time/0", self.time, methods=["GET"]),
        ]

    async def subscribe(self, request: Request) -> Response:
        """Answer a long poll; the answer to one that the client has left goes nowhere."""
        delay = rest.delay_at(self._world, request.url.path)
        if delay:
            await rest.wait(self._world, delay)
        timetoken = request.query_params.get("tt", "0")
        if not (timetoken.isascii() and timetoken.isdecimal() and len(timetoken) <= TIMETOKEN_MAX_DIGITS):
            return self._said(SUBSCRIBE, _error(400, "Invalid timetoken"), 400)
        names = request.path_params["channels"].split(",")
        subscriber_key = request.path_params["subscriber_key"]
        poll = Poll([self._world.channels.channel(subscriber_key, name) for name in names], int(timetoken))
        poll.fault = self._world.faults.take(PollFault)
        content = None if poll.fault else await self._answer(request, poll)
        if poll.fault:
            return await self._struck(request, poll.fault, names)
        return Response() if content is None else self._said(SUBSCRIBE, content)

    async def heartbeat(self, _: Request) -> Response:
        """Take a sign of life, which nobody asks for."""
        return self._said(f"{PRESENCE}/heartbeat", {"status": 200, "message": "OK", "service": "Presence"})

    async def leave(self, _: Request) -> Response:
        """Take a goodbye."""
        said = {"status": 200, "action": "leave", "message": "OK", "service": "Presence"}
        return self._said(f"{PRESENCE}/leave", said)

    async def time(self, _: Request) -> Response:
        """Tell the present timetoken."""
        return self._said("/time/0", [self._world.channels.timetoken()])

    async def _answer(self, request: Request, poll: Poll) -> bytes | None:
        """Return the answer to *poll*; None where the client leaves first."""
        answer = asyncio.create_task(self._world.channels.answer(poll))
        gone = asyncio.create_task(_wait_gone(request))
        try:
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            answer.cancel()
            gone.cancel()

    async def _struck(self, request: Request, fault: PollFault, names: list[str]) -> Response:
        match fault:
            case PubNubForbidden():
                said = _error(403, "Forbidden", service="Access Manager") | {"payload": {"channels": names}}
                return self._said(SUBSCRIBE, said, 403)
            case PubNubError(status=status):
                return self._said(SUBSCRIBE, _error(status, http.HTTPStatus(status).phrase), status)
            case PubNubDrop():
                self._reset(request)
                await _wait_gone(request)
        return Response()

    def _said(self, endpoint: str, said: Any, status: int = 200) -> Response:
        """Record the call, and return its answer."""
        record = CallRecord(self._world.clock.iso(), status, "", "pubnub")
        self._world.calls.setdefault(f"GET {endpoint}", []).append(record)
        return Response(said if isinstance(said, bytes) else msgspec.json.encode(said), status, HEADERS)


async def _wait_gone(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(status: int, message: str, *, service: str = "Balancer") -> dict[str, Any]:
    return {"message": message, "error": True, "service": service, "status": status}
