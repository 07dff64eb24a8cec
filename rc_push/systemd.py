"""What does systemd want to hear? The messages of sd_notify(3), sent over `$NOTIFY_SOCKET`, and nothing without it.

Knows the socket and the form of a message; knows nothing of when which one is due.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

# Source: NOTIFY_BUFFER_MAX in systemd: a longer datagram is ignored as a whole.
STATUS_MAX_BYTES = 2048
US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Systemd:
    """The service manager that has started this process. *watchdog_s* is None where it does not watch.

    *address* is a path, `@` and an abstract name, or empty where there is no manager: then nothing is sent.
    """

    address: str = ""
    watchdog_s: float | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Systemd:
        """Return what *environ* says to the process *pid*; its children inherit the variables, and are not meant."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) == 1:
            return cls()
        usec = environ.get("WATCHDOG_USEC", "")
        is_watched = usec.isdecimal() and int(usec) > 0 and environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(address, int(usec) / US_PER_S if is_watched else None)

    def ready(self) -> bool:
        """Say that the service is up, for the first time or after a reload."""
        return self._send("READY=1")

    def status(self, sentence: str) -> bool:
        """Say what `systemctl status` is to show."""
        line = " ".join(sentence.split())
        return self._send(f"STATUS={line.encode(errors='replace')[:STATUS_MAX_BYTES].decode(errors='ignore')}")

    def alive(self) -> bool:
        """Say that the watchdog need not bite."""
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """Say that a reload has begun; `ready` says that it is done."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within_s: float) -> bool:
        """Say that the service ends, and may need *within_s* from now on."""
        return self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * US_PER_S)}")

    def extend(self, within_s: float) -> bool:
        """Say that starting, or stopping, may take *within_s* from now on."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(within_s * US_PER_S)}")

    def _send(self, message: str) -> bool:
        """Return whether it was sent. A manager that is busy, or restarting itself, is no reason to wait or to fail."""
        if not self.address:
            return False
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.setblocking(False)
                connection.sendto(message.encode(), address)
        except OSError:
            return False
        return True
