"""As much of Slack's socket mode as its client needs: it is told where to connect, greeted, and sent events.

`POST /simulator/events` has it send, as the simulator does. Source: slack_sdk's socket_mode, and what it waits for.
"""

import asyncio
import json

from aiohttp import WSMsgType, web

EVENT = {"type": "message", "channel": "C1", "user": "U1", "ts": "1764062400.000100"}


class Slack:
    """One client at a time."""

    def __init__(self) -> None:
        self.address = ""
        self.socket: web.WebSocketResponse | None = None

    async def open(self, _: web.Request) -> web.Response:
        """Say where to connect."""
        return web.json_response({"ok": True, "url": f"{self.address}/link".replace("http:", "ws:")})

    async def link(self, request: web.Request) -> web.WebSocketResponse:
        """Greet, then read what is acknowledged."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await socket.send_str('{"type":"hello","num_connections":1,"connection_info":{"app_id":"A1"}}')
        self.socket = socket
        async for message in socket:
            assert message.type is WSMsgType.TEXT
        return socket

    async def state(self, _: web.Request) -> web.Response:
        """Say whether somebody is connected."""
        return web.json_response({"subscriptions": [1] if self.socket else []})

    async def events(self, request: web.Request) -> web.Response:
        """Send what is asked for."""
        many = await request.json()
        assert self.socket is not None
        body = {"type": "event_callback", "event": EVENT | {"text": "x" * many["bytes"]}}
        envelope = {"type": "events_api", "accepts_response_payload": False, "payload": body, "envelope_id": "ID"}
        before, after = json.dumps(envelope).split("ID")
        for number in range(many["count"]):
            await self.socket.send_str(f"{before}{number}{after}")
            if number % 256 == 0:
                await asyncio.sleep(0)
        return web.Response()


async def main() -> None:
    """Serve until killed."""
    slack, app = Slack(), web.Application()
    app.router.add_post("/api/apps.connections.open", slack.open)
    app.router.add_get("/link", slack.link)
    app.router.add_get("/simulator/state", slack.state)
    app.router.add_post("/simulator/events", slack.events)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    slack.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(json.dumps({"server": slack.address, "clientId": "", "clientSecret": "", "jwt": "xapp-1"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
