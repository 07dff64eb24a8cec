"""Slack's socket mode client, unchanged; its listener acknowledges, as it must, and counts. It keeps nothing."""

import asyncio
import json
import sys
import time
from pathlib import Path

from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient


async def main(server: str, _id: str, _secret: str, token: str, report: str, count: str) -> None:
    """Connect, and write the report after *count* events."""
    client = SocketModeClient(app_token=token, web_client=AsyncWebClient(base_url=f"{server}/api/"))
    seen, first_at = 0, 0.0

    async def on_request(client: SocketModeClient, request: SocketModeRequest) -> None:
        nonlocal seen, first_at
        if not seen:
            first_at = time.monotonic()
        seen += 1
        await client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
        if seen == int(count):
            Path(report).with_suffix(".tmp").write_text(json.dumps({"seconds": time.monotonic() - first_at}))
            Path(report).with_suffix(".tmp").rename(report)

    client.socket_mode_request_listeners.append(on_request)
    await client.connect()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
