"""Who may connect to the gateway, and to which session? A port of its own, announced by wstoken's `uri`.

Knows upgrades, ws tokens and recovery; knows nothing of what happens on a connection.
"""

from __future__ import annotations

import http
import logging
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from rc_push.protocol import frames, wsg
from rc_push.protocol.wsg_server import MESSAGES
from rc_push.simulator import rest
from rc_push.simulator.answers import Refused
from rc_push.simulator.faults import ConnectionFault, FailRecovery
from rc_push.simulator.link import GatewayLink, pong_within_s
from rc_push.simulator.state import GatewaySession, World
from rc_push.simulator.tokens import OAuthSession
from rc_push.simulator.wire import Connection

PATH = "/ws"
# What may wait in the transport before `drain` waits.
WRITE_LIMIT_BYTES = 256 << 10
CLOSE_WITHIN_S = 1.0

# A client that breaks off is what we are for, not an error to print.
_quiet = logging.getLogger("rc_push.simulator.websockets")
_quiet.setLevel(logging.CRITICAL)


class Gateway:
    """The server: `async with Gateway(world, host)`; clients find it by the `uri` that wstoken answers."""

    def __init__(self, world: World, host: str) -> None:
        self._world = world
        self._host = host
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            self._host,
            0,
            process_request=self._admit,
            create_connection=Connection,
            compression=None,
            close_timeout=CLOSE_WITHIN_S,
            write_limit=WRITE_LIMIT_BYTES,
            logger=_quiet,
            server_header=None,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self._world.gateway_url = f"ws://{url_host(self._host)}:{port}{PATH}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server:
            for connection in list(self._server.handlers):
                if isinstance(connection, Connection) and (connection.is_silent or connection.paused):
                    connection.transport.abort()  # no close frame would pass
            self._server.close()
            await self._server.wait_closed()

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Decide on the upgrade (protocol.md 4.2): the token stands in the query or in a header."""
        assert isinstance(connection, Connection)  # noqa: S101 - see create_connection
        url = urlsplit(request.path)
        if url.path != PATH:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "")
        delay = rest.delay_at(self._world, PATH)
        if delay:
            await rest.wait(self._world, delay)
        try:
            self._world.faults.refuse(PATH)
        except Refused as refused:
            response = connection.respond(refused.answer.status, "")
            response.headers.update(refused.answer.headers)
            return response
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = dict(parse_qsl(url.query)).get("access_token", bearer)
        connection.oauth, connection.ws_token = self._world.tokens.redeem_ws_token(token), token
        if connection.oauth is None and self._world.knobs.bad_ws_token == "refuse":  # noqa: S105 - no password
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "")
        self._set_pings(connection)
        return None

    def _set_pings(self, connection: Connection) -> None:
        knobs = self._world.knobs
        connection.ping_interval = self._world.clock.scaled_s(knobs.ping_period_s) or None
        connection.ping_timeout = pong_within_s(self._world) if knobs.missed_pong == "close" else None

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)  # noqa: S101 - see create_connection
        if connection.oauth is None:
            await self._turn_away(connection, "OAU-149", "Unparsable access token", 401)
            return
        query = dict(parse_qsl(urlsplit(connection.request.path).query)) if connection.request else {}
        for link in [link for link in self._world.links if link.ws_token == connection.ws_token]:
            link.abort("ws token used again")
        entry = self._enter(connection.oauth, query.get("wsc"))
        if entry is None:
            await self._turn_away(connection, wsg.MALFORMED_WSC, MESSAGES[wsg.MALFORMED_WSC], 400)
            return
        link = self._connect(connection, *entry)
        await link.run()

    def _connect(self, connection: Connection, session: GatewaySession, state: str, code: str) -> GatewayLink:
        """Begin the connection: ConnectionDetails, then what was kept, then the faults that wait for it."""
        world = self._world
        link = GatewayLink(world, connection, session)
        session.link = link
        world.links.add(link)
        world.traffic.append(link.traffic)
        with_wsc = world.knobs.details_with_wsc
        session.wsg.connect(world.clock.now(), session.created_at, recovery=state, error_code=code, with_wsc=with_wsc)
        link.begin()
        fault = world.faults.take(ConnectionFault)
        if fault:
            link.strike(fault)
        return link

    def _enter(self, oauth: OAuthSession, wsc: str | None) -> tuple[GatewaySession, str, str] | None:
        """Return the session to serve, its recoveryState and its recoveryErrorCode; None where *wsc* is malformed."""
        world = self._world
        world.expire()
        if wsc is None:
            return world.open_session(oauth), "", ""
        session_id = wsc.rpartition("-")[0]
        old = world.sessions.get(session_id)
        if old is None and session_id not in world.ended_sessions:
            return None
        code = self._refusal(old, session_id, oauth, wsc)
        if old is None or code:
            if old and old.oauth is oauth:
                world.end_session(old)  # "context lost" (protocol.md 4.10)
            return world.open_session(oauth), "Failed", code
        if old.link:
            old.link.abort("replaced")
        return old, "Successful", ""

    def _refusal(self, old: GatewaySession | None, session_id: str, oauth: OAuthSession, wsc: str) -> str:
        """Return the recoveryErrorCode that the recovery of *old* meets; empty where it succeeds."""
        knobs = self._world.knobs
        fault = self._world.faults.take(FailRecovery)
        if fault:
            return fault.code
        if old is None:
            is_own = self._world.ended_sessions[session_id] == oauth.id
            return knobs.expired_window_code if is_own else wsg.OTHER_OAUTH_SESSION
        if knobs.old_wsc == "refused" and wsc != old.wsg.wsc_token:
            return knobs.expired_window_code
        if knobs.second_connection == "fails" and old.link:
            return knobs.expired_window_code
        return old.wsg.refusal_to_recover(oauth.id, self._world.clock.now(), expired_code=knobs.expired_window_code)

    async def _turn_away(self, connection: Connection, code: str, message: str, status: int) -> None:
        """Say why in an Error frame, in the place of ConnectionDetails, and close."""
        meta: dict[str, Any] = {"type": frames.ERROR}
        if not self._world.knobs.bare_errors:
            meta |= {"messageId": str(connection.id), "status": status}
        connection.write_messages([frames.encode(meta, msgspec.json.encode({"errorCode": code, "message": message}))])
        await connection.close(self._world.knobs.close_code)


def url_host(host: str) -> str:
    """Return *host* as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
