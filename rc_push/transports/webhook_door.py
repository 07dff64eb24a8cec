"""How do connections reach us? The sockets that listen, and who comes in: counted as soon as there is a file for it.

asyncio's own server would tell of a connection when its TLS stands, and nobody would count those that never say a word.
Knows sockets and TLS; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from contextlib import ExitStack, suppress

from rc_push.config.webhook import Place
from rc_push.transports.webhook_connections import Connections, Doorkeeper

# Who waits in the kernel to be looked at costs us no file.
BACKLOG = 1024
# Until the handshake is done, and from our goodbye on.
TLS_WITHIN_S = 5.0
# Where no file is left, the next look comes so much later.
ACCEPT_AGAIN_S = 1.0
# For the proxy: put its user into our group.
SOCKET_MODE = 0o660


class Door:
    """Where connections come in at *place*, with TLS where there is a *context*."""

    def __init__(
        self, place: Place, connections: Connections, doorkeeper: Doorkeeper, context: ssl.SSLContext | None
    ) -> None:
        self._place = place
        self._connections = connections
        self._doorkeeper = doorkeeper
        self._context = context
        self._listeners: list[socket.socket] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._beginning: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def port(self) -> int:
        """The port; of interest where the file says 0."""
        return int(self._listeners[0].getsockname()[1])

    async def open(self) -> None:
        """Listen. Raises OSError where that is impossible."""
        path, host, port = self._place.path, self._place.host, self._place.port
        self._listeners = [_bound_to(path)] if path else await _bound_at(host, port)
        try:
            for listener in self._listeners:
                listener.listen(BACKLOG)
                self._look_at(listener)
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        """Let nobody in any more. Whose TLS does not stand yet is sent away; all others stay."""
        for listener in self._listeners:
            self._look_away_from(listener)
            listener.close()
        for sock in self._beginning.values():
            with suppress(OSError):  # it has gone by itself
                sock.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _look_at(self, listener: socket.socket) -> None:
        self._paused.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _look_away_from(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listener)
        if listener in self._paused:
            self._paused.pop(listener).cancel()

    def _accept(self, listener: socket.socket) -> None:
        """Let one in, or end it; the loop calls again as long as somebody waits."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        except OSError as exc:  # no file is left: who waits goes on waiting
            self._doorkeeper.refused[os.strerror(exc.errno or 0).lower()] += 1
            self._look_away_from(listener)
            loop = asyncio.get_running_loop()
            self._paused[listener] = loop.call_later(ACCEPT_AGAIN_S, self._look_at, listener)
            return
        peer = str(address[0]) if isinstance(address, tuple) else ""
        if not self._doorkeeper.let_in(peer):
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._begin(sock, peer), name="webhook-begin")
        self._beginning[task] = sock
        task.add_done_callback(self._beginning.pop)

    async def _begin(self, sock: socket.socket, peer: str) -> None:
        """Have it served, behind TLS where that is spoken here, and let it out when it ends."""
        within_s = TLS_WITHIN_S if self._context else None
        try:
            _, connection = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connections.made_for(peer),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=within_s,
                ssl_shutdown_timeout=within_s,
            )
        except OSError as exc:
            self._doorkeeper.let_out(peer)
            if isinstance(exc, ssl.SSLError):
                self._doorkeeper.refused["bad TLS"] += 1
            elif isinstance(exc, ConnectionAbortedError):  # asyncio's word for a handshake that takes too long
                self._doorkeeper.refused["slow TLS"] += 1
            return  # else it has gone by itself, as one does who looks whether somebody listens
        except BaseException:
            self._doorkeeper.let_out(peer)
            raise
        connection.ended.add_done_callback(lambda _: self._doorkeeper.let_out(peer))


async def _bound_at(host: str, port: int) -> list[socket.socket]:
    """Return sockets for all addresses of *host*. asyncio finds and binds these; its server is not needed further."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        return [bound.dup() for bound in server.sockets]
    finally:
        server.close()


def _bound_to(path: str) -> socket.socket:
    """Return a unix socket at *path*, in the place of one that a crash has left."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - a socket
            os.unlink(path)  # noqa: PTH108 - a socket
    with ExitStack() as undone:
        sock = undone.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)  # noqa: PTH101 - a socket
        undone.pop_all()
        return sock
