"""What does the gateway say to us? One connection by hand, step by step, beside the daemon's.

Knows one connection; what the steps mean is `doctor_account`'s.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from websockets.exceptions import ConnectionClosed

from rc_push.config import NetworkConfig
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol import wsg
from rc_push.rest import WsToken
from rc_push.transports.gateway import open_gateway
from rc_push.transports.socket import Socket
from rc_push.transports.websocket import uri_with

HEARTBEAT_WITHIN_S = 10.0


class Probe:
    """One connection, its session, and the subscription on it."""

    def __init__(self, socket: Socket, access_token: str) -> None:
        self._socket = socket
        self._session = wsg.ClientSession(
            now=time.monotonic(), new_id=lambda: str(uuid.uuid4()), access_token=access_token
        )

    async def details(self) -> wsg.ConnectionDetails:
        """Return what the gateway grants the session. Raises UnreachableError, ProtocolError."""
        while True:
            match await self._fact(wsg.DETAILS_WITHIN_S, "ConnectionDetails"):
                case wsg.Connected() as fact:
                    return fact.details
                case wsg.ErrorReceived() as fact:
                    raise ProtocolError(f"the gateway ends the connection: {fact}"[:200])

    async def subscribe(self, event_filters: Sequence[str]) -> subscriptions.SubscriptionInfo:
        """Subscribe, in the place of what was subscribed before. Raises what the refusal means."""
        body = subscriptions.creation_body(event_filters, "WebSocket")
        message_id = self._session.request("POST", subscriptions.PATH, body, time.monotonic())
        while True:
            fact = await self._fact(wsg.REQUEST_ANSWER_S, "answer to the subscription")
            if isinstance(fact, wsg.ErrorReceived):
                raise ProtocolError(f"the gateway ends the connection: {fact}"[:200])
            if isinstance(fact, wsg.Answered) and fact.message_id == message_id:
                if not fact.ok:
                    raise fact.refusal("subscription")
                return subscriptions.info_from(fact.body)

    async def wait_event(self, is_ours: Callable[[bytes], bool], within_s: float) -> float:
        """Wait for the notification that *is_ours*; return how long it took. Raises TimeoutError, UnreachableError."""
        started_at = time.monotonic()
        async with asyncio.timeout(within_s):
            while True:
                fact = await self._fact(within_s, "event")
                if isinstance(fact, wsg.Notified) and is_ours(fact.payload):
                    return time.monotonic() - started_at

    async def silence_survived_s(self, idle_s: float) -> float:
        """Say nothing for *idle_s*; return how long the connection lived, which is *idle_s* where it still does."""
        until = time.monotonic() + idle_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    await self._receive()
            except TimeoutError:
                break
            except UnreachableError:
                return idle_s - max(0.0, until - time.monotonic())
        try:
            await self._prove_alive()
        except UnreachableError:
            return 0.0
        return idle_s

    async def _prove_alive(self) -> None:
        self._session.heartbeat(time.monotonic())
        fact: wsg.Fact | None = None
        while not isinstance(fact, wsg.HeartbeatAnswered):
            fact = await self._fact(HEARTBEAT_WITHIN_S, "answer to a Heartbeat")

    async def _receive(self) -> bytes:
        """Return the next frame. Raises UnreachableError where there is none any more."""
        inbox = self._socket.inbox
        while not inbox.has_frames:
            if inbox.has_ended:
                raise inbox.error()
            await inbox.wait(HEARTBEAT_WITHIN_S)
        (frame,) = inbox.take(1)
        assert isinstance(frame, bytes)  # noqa: S101 - nobody has had it opened
        return frame

    async def _fact(self, within_s: float, what: str) -> wsg.Fact:
        try:
            async with asyncio.timeout(within_s):
                for frame in self._session.data_to_send():
                    await self._socket.send(frame, text=True)
                return self._session.receive(await self._receive(), time.monotonic())
        except TimeoutError:
            failure = UnreachableError(f"no {what} within {within_s:g} s", phase="read")
        except (ConnectionClosed, UnreachableError):
            failure = UnreachableError(f"the connection ended before the {what}", phase="read")
        raise failure


@asynccontextmanager
async def probing(token: WsToken, network: NetworkConfig) -> AsyncIterator[Probe]:
    """Open a connection with *token*. Raises UnreachableError, UpgradeBlocked."""
    socket = await open_gateway(uri_with(token, None), network)
    try:
        yield Probe(socket, token.token)
    finally:
        await socket.close()
