"""A webhook receiver on loopback: echoes the validation, counts events, notes how long each took since it was sent.

    python benchmarks/receiver.py COUNT REPORT

Prints its port. Writes the report after COUNT events.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

from aiohttp import web

from rc_push.envelope import ms_from_iso


class Receiver:
    """The receiver."""

    def __init__(self, count: int, report: Path) -> None:
        self._count = count
        self._report = report
        self._first_at = 0.0
        self._latencies_ms: list[float] = []

    async def take(self, request: web.Request) -> web.Response:
        """Take one POST."""
        token = request.headers.get("Validation-Token")
        if token is not None:
            return web.Response(headers={"Validation-Token": token})
        event = json.loads(await request.read())
        self._first_at = self._first_at or time.monotonic()
        self._latencies_ms.append(time.time() * 1000 - (ms_from_iso(event["timestamp"]) or 0))
        if len(self._latencies_ms) == self._count:
            took = {"seconds": time.monotonic() - self._first_at, "latenciesMs": self._latencies_ms}
            self._report.with_suffix(".tmp").write_text(json.dumps(took))
            self._report.with_suffix(".tmp").rename(self._report)
        return web.Response()


def main() -> None:
    """Serve until it is ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = web.Application()
    app.router.add_post("/", Receiver(int(sys.argv[1]), Path(sys.argv[2])).take)
    web.run_app(app, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main()
