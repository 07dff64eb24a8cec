"""Who else can take these events? Clients that we did not write, each on the stream that it is made for.

A peer is a program that takes *count* events and then writes `{"seconds": …}`, from the first to the last, to a file.
To add one: its program here, and an entry in `PEERS`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import stage

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent.parent / "tests/e2e/node/node_modules"
type_of_server = Callable[[], contextlib.AbstractContextManager[dict[str, str]]]


@dataclass(frozen=True)
class Peer:
    """*command* begins its program; the server's address and credentials, the report and the count follow.

    *server* runs what it connects to. *lacks* says why it cannot run here; empty where it can.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    lacks: Callable[[], str] = lambda: ""
    server: type_of_server = stage.simulator


def lacks_node() -> str:
    """Say why the TypeScript client cannot run."""
    if not shutil.which("node"):
        return "there is no node"
    return "" if NODE_MODULES.exists() else "npm has not installed it (`make bench` does)"


def lacks_slack() -> str:
    """Say why Slack's client cannot run."""
    return "" if importlib.util.find_spec("slack_sdk") else "slack_sdk is not installed (`make bench` does)"


@contextlib.contextmanager
def slack_server() -> Iterator[dict[str, str]]:
    """Run a server that speaks Slack's socket mode; give its ready line."""
    command = [sys.executable, str(HERE / "slack_server.py")]
    with stage.running(command, stage.SERVER_CPU, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())


PEERS = (
    Peer("@rc-ex/ws", ["node", str(HERE / "rc_ex_ws.cjs")], {"NODE_PATH": str(NODE_MODULES)}, lacks_node),
    Peer("official Python SDK", [sys.executable, str(HERE / "python_sdk.py")]),
    Peer("slack_sdk", [sys.executable, str(HERE / "slack_client.py")], lacks=lacks_slack, server=slack_server),
)
