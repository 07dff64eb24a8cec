"""How is the simulator run? Two ports on loopback: HTTP for REST and admin calls, and the gateway's."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from rc_push.asgi import serving
from rc_push.simulator import pubnub_http, rest
from rc_push.simulator.admin import Admin
from rc_push.simulator.clock import Clock
from rc_push.simulator.emitter import Emitter, Event
from rc_push.simulator.gateway import Gateway, url_host
from rc_push.simulator.incoming import IncomingWebhooks
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.samples import sample
from rc_push.simulator.state import World
from rc_push.simulator.wire import reset


class Simulator:
    """A RingCentral on loopback.

    async with Simulator(speed=60) as sim:
        …  # sim.server, sim.client_id, sim.client_secret, sim.jwt
        sim.emit_sample("post.added")
        await sim.admin.faults({"fault": "drop"})

    *state* is the whole world, *emitter* and *admin* what the admin calls use. Raises ValueError for a *host* that
    others could reach.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        speed: float = 1.0,
        knobs: Knobs | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is no loopback address: the simulator has no protection against others")
        self.state = World(Clock(speed, now), knobs or Knobs())
        self.emitter = Emitter(self.state)
        self.admin = Admin(self.state, self.emitter)
        self._host = host
        self._port = port
        self._stack = AsyncExitStack()
        self._numbers: dict[str, int] = {}

    @property
    def server(self) -> str:
        """The URL to use in the place of https://platform.ringcentral.com."""
        return self.state.server_url

    @property
    def pubnub_origin(self) -> str:
        """What to use in the place of ps.pndsn.com, without TLS."""
        return self.server.removeprefix("http://")

    @property
    def client_id(self) -> str:
        """The app's."""
        return self.state.app.client_id

    @property
    def client_secret(self) -> str:
        """The app's."""
        return self.state.app.client_secret

    @property
    def jwt(self) -> str:
        """The first user's."""
        return self.state.user.jwt

    @property
    def ready(self) -> dict[str, str]:
        """What a client needs to know, as `rc-push simulate` prints it."""
        return {
            "server": self.server,
            "clientId": self.client_id,
            "clientSecret": self.client_secret,
            "jwt": self.jwt,
            "pubnubOrigin": self.pubnub_origin,
        }

    def emit(self, event: str, body: Any = None) -> str:
        """Emit one event; return its uuid."""
        return self.emitter.emit([Event(event, body)])[0]

    def emit_sample(self, type_: str) -> str:
        """Emit the next realistic event of a type (see `samples.SAMPLES`); return its uuid."""
        number = self._numbers[type_] = self._numbers.get(type_, -1) + 1
        return self.emit(*sample(type_, number))

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family)
        self.state.server_url = f"http://{url_host(self._host)}:{listener.getsockname()[1]}"
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            await stack.enter_async_context(Gateway(self.state, self._host))
            await stack.enter_async_context(_http(self._app, listener))
            stack.callback(self.state.channels.close)
            stack.push_async_callback(self.state.sender.close)
            stack.callback(self.state.stop_webhooks)
            stack.callback(self.state.release)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _app(self, reset_connection: Callable[[Request], None]) -> Starlette:
        pubnub = pubnub_http.Endpoints(self.state, reset_connection)
        incoming = IncomingWebhooks(self.state, self.emitter)
        return Starlette(routes=[*rest.routes(self.state), *self.admin.routes(), *pubnub.routes(), *incoming.routes()])


@asynccontextmanager
async def _http(
    make_app: Callable[[Callable[[Request], None]], Starlette], listener: socket.socket
) -> AsyncIterator[None]:
    """Serve HTTP. *make_app* is given what resets the connection of a request."""

    def reset_connection(request: Request) -> None:
        """Reset the TCP connection of *request*. It is known by its port: ASGI says nothing of connections."""
        for connection in list(server.server_state.connections):
            if isinstance(connection, H11Protocol) and connection.client == request.client:
                reset(connection.transport)

    async with serving(make_app(reset_connection), listener) as server:
        yield
