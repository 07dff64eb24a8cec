"""The official Python SDK's WebSocket client, unchanged, with a callback that counts. It keeps nothing."""

import asyncio
import json
import sys
import time
from pathlib import Path

from ringcentral import SDK
from ringcentral.websocket.events import WebSocketEvents


async def main(server: str, client_id: str, client_secret: str, jwt: str, report: str, count: str) -> None:
    """Subscribe, and write the report after *count* notifications."""
    sdk = SDK(client_id, client_secret, server)
    sdk.platform().login(jwt=jwt)
    seen, first_at = 0, 0.0

    def on_notification(_: object) -> None:
        nonlocal seen, first_at
        if not seen:
            first_at = time.monotonic()
        seen += 1
        if seen == int(count):
            Path(report).write_text(json.dumps({"seconds": time.monotonic() - first_at}))

    def on_connected(client: object) -> None:
        task = asyncio.get_running_loop().create_task(client.create_subscription(["/team-messaging/v1/posts"]))
        tasks.append(task)

    tasks: list[asyncio.Task[object]] = []
    client = sdk.create_web_socket_client()
    client.on(WebSocketEvents.connectionCreated, on_connected)
    client.on(WebSocketEvents.receiveSubscriptionNotification, on_notification)
    tasks.append(asyncio.get_running_loop().create_task(client.create_new_connection()))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
