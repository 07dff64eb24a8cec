"""What do the tests of webhooks with real processes share? The daemon's subscription, and what the simulator knows."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from traces import select

SUBSCRIPTION = """
[subscriptions.{name}]
transport = "{transport}"
event_filters = ["/team-messaging/v1/posts"]
address = "{address}"
listen = "{listen}"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def subscription(port: int, name: str = "hook", transport: str = "webhook") -> str:
    """Return the table of a webhook at *port*, or of what it moves to."""
    place = f"127.0.0.1:{port}"
    return SUBSCRIPTION.format(name=name, transport=transport, address=f"http://{place}/hook", listen=place)


def token_in(journal: Path) -> str:
    """Return the token by which a post is the daemon's."""
    return str(json.loads(select(journal, "SELECT state FROM webhooks")[0][0])["hook"]["token"])


def slow_disk(folder: Path, microseconds: int) -> str:
    """Return a library that adds *microseconds* to every fsync of a process that preloads it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the disk slow with")
    library = folder / "slow.so"
    source = f"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <time.h>
    static void slow(void) {{ struct timespec t = {{0, {microseconds}000L}}; nanosleep(&t, 0); }}
    int fsync(int fd) {{ slow(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd); }}
    int fdatasync(int fd) {{ slow(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd); }}
    """
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=source.encode(), check=True)
    return str(library)
