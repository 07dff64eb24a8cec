"""The command that shows the main job: a simulated RingCentral, a real daemon, and their connection cut halfway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rc_push.cli.show import Number, event_line, time_of_day
from rc_push.cli.temporary import temporary_folder
from rc_push.cli.toml import toml
from rc_push.envelope import Envelope, Source, ms_from_iso
from rc_push.errors import EXIT_FAILED, ProtocolError
from rc_push.journal.reader import Reader
from rc_push.terminal import printable

if TYPE_CHECKING:
    from rc_push.simulator.server import Simulator

START_WITHIN_S = 20.0
# After the last event was sent: how long the daemon may take to deliver what it has.
DELIVER_WITHIN_S = 15.0
POLL_S = 0.05
# What is sent, in turn.
TYPES = ("post.added", "sms.received", "telephony.session", "post.changed")
# Posts over the one transport, messages and calls over the other.
SUBSCRIPTIONS = {
    "websocket": 'event_filters = ["/team-messaging/v1/posts"]',
    "pubnub": 'transport = "pubnub"\nevent_filters = ["/restapi/v1.0/account/~/extension/~/telephony/sessions",'
    ' "/restapi/v1.0/account/~/extension/~/message-store/instant?type=SMS"]',
}
FAULTS = ("drop", "pubnub-drop")
COLOURS = {"live": "bright_green", "down": "bright_red"}
# What of the daemon's log is shown between the events.
SHOWN = ("subscription_state", "connection_lost", "gap", "unreadable")

NEXT_STEPS = """
Next, with a real account (docs: README.md):

  rc-push init > rc-push.toml          # a commented file; name the event filters you want in it
  export RC_APP_CLIENT_ID=… RC_APP_CLIENT_SECRET=… RC_USER_JWT=…
  rc-push check
  rc-push run
"""


@dataclass
class Demo:
    """One run: its folder, what it says, and what it has counted."""

    folder: Path
    is_quiet: bool
    sent: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)

    @property
    def events_path(self) -> Path:
        """Where the daemon's file handler writes."""
        return self.folder / "events.jsonl"

    def notice(self, text: str, **style: Any) -> None:
        """Print what happens beside the events, with the time."""
        self.say(f"{'':>7}  {time_of_day(round(time.time() * 1000))}  {text}", **({"bold": True} | style))

    def say(self, text: str = "", **style: Any) -> None:
        """Print for people; nothing with --json."""
        if not self.is_quiet:
            click.secho(text, **style)


@click.command()
@click.option("--seconds", type=Number(2, 300), default=8.0, show_default=True, help="How long it sends.")
@click.option("--rate", type=Number(1, 1000), default=12.0, show_default=True, help="Events per second.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts only, as one JSON object.")
def demo(seconds: float, rate: float, *, as_json: bool) -> None:
    """Watch the main job on a simulated RingCentral, with the connection cut halfway."""
    with temporary_folder("demo") as folder:
        try:
            counts = asyncio.run(_run(Demo(folder, as_json), seconds, rate))
        except asyncio.CancelledError:  # SIGTERM or SIGHUP: as after Ctrl-C, nothing is left behind
            raise click.Abort from None
    if as_json:
        click.echo(json.dumps(counts))
    else:
        _say_result(counts)
    if counts["lost"]:
        raise SystemExit(EXIT_FAILED)


async def _run(demo: Demo, seconds: float, rate: float) -> dict[str, int]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one
    for number in (signal.SIGTERM, signal.SIGHUP):  # the last: the terminal is closed; of SIGINT, asyncio takes care
        loop.add_signal_handler(number, task.cancel)

    from rc_push.simulator.server import Simulator

    async with Simulator() as simulator, _daemon(demo, simulator) as daemon:
        demo.say("rc-push demo", bold=True)
        demo.say(f"  simulated RingCentral at {simulator.server}")
        demo.say(f"  daemon with pid {daemon.pid}, its journal in {demo.folder}")
        demo.say()
        tail = asyncio.create_task(_tail(demo))
        try:
            if not await _wait_for(lambda: len(simulator.state.subscriptions) == len(SUBSCRIPTIONS), START_WITHIN_S):
                raise ProtocolError("the daemon did not subscribe")
            await _send(demo, simulator, seconds, rate)
            await _wait_for(lambda: demo.sent <= demo.delivered, DELIVER_WITHIN_S)
        finally:
            tail.cancel()
            await asyncio.wait([tail])
        daemon.terminate()
        await daemon.wait()
        return _counts(demo)


@contextlib.asynccontextmanager
async def _daemon(demo: Demo, simulator: Simulator) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the real daemon in a process of its own; its log comes back to us."""
    config = demo.folder / "rc-push.toml"
    config.write_text(
        f"[accounts.main]\n"
        f'server = "{simulator.server}"\n'
        f'client_id = {{ env = "RC_APP_CLIENT_ID" }}\n'
        f'client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}\n'
        f'jwt = {{ env = "RC_USER_JWT" }}\n'
        f'pubnub_origin = "{simulator.ready["pubnubOrigin"]}"\n'
        + "".join(f"[subscriptions.{name}]\n{rest}\n" for name, rest in SUBSCRIPTIONS.items())
        + f'[handlers.events]\nuse = "file"\npath = {toml(demo.events_path)}\n'
        f'[journal]\npath = {toml(demo.folder / "journal.db")}\n[log]\nformat = "json"\n',
        "utf-8",
    )
    secrets = {
        "RC_APP_CLIENT_ID": simulator.client_id,
        "RC_APP_CLIENT_SECRET": simulator.client_secret,
        "RC_USER_JWT": simulator.jwt,
    }
    command = (sys.executable, "-m", "rc_push", "-c", str(config), "run")
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | secrets, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    log = asyncio.create_task(_show_log(demo, process))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await log


async def _show_log(demo: Demo, process: asyncio.subprocess.Process) -> None:
    """Show the daemon's log lines that matter, in words."""
    assert process.stderr is not None  # noqa: S101 - asked for above
    async for line in process.stderr:
        try:
            entry = json.loads(line)
        except ValueError:
            demo.say(f"  {printable(line.decode('utf-8', 'replace').rstrip())}", fg="red")
            continue
        if entry.get("event") in SHOWN:
            demo.notice(f"● {_words(entry)}", fg=COLOURS.get(entry.get("state"), "bright_yellow"))


def _words(entry: dict[str, Any]) -> str:
    match entry["event"]:
        case "subscription_state":
            return f"{entry['subscription']} {entry['state']}: {printable(str(entry.get('why')))}"
        case "connection_lost":
            error = printable(str(entry.get("error")))
            return f"{entry['subscription']}: {error}; next try in {entry.get('next_try_s')} s"
        case "gap":
            span = f"{entry.get('since')} to {entry.get('until')}"
            return f"{entry['subscription']}: {entry.get('certainty')} gap, {span}: {entry.get('reason')}"
        case name:
            return f"{name}: {printable(str(entry.get('reason')))}"


async def _tail(demo: Demo) -> None:
    """Print each event as the daemon's file handler writes it, as `tail -f` would."""
    await _wait_for(demo.events_path.exists, START_WITHIN_S)
    with demo.events_path.open("rb") as file:
        while True:
            line = file.readline()
            if line.endswith(b"\n"):
                fields = json.loads(line)
                demo.delivered.add(fields["uuid"])
                demo.say(event_line(_envelope_from(fields)))
                continue
            file.seek(-len(line), os.SEEK_CUR)
            await asyncio.sleep(POLL_S)


def _envelope_from(fields: dict[str, Any]) -> Envelope:
    ours = fields["rcPush"]
    source = Source(ours["account"], ours["subscription"], ours["transport"], ours["origin"])
    received_at_ms = ms_from_iso(ours["receivedAt"]) or 0
    return Envelope(fields["uuid"], ours["type"], json.dumps(fields).encode(), source, received_at_ms, ours["position"])


async def _wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    """Look until *condition* holds; return whether it did in time."""
    until = time.monotonic() + within_s
    while not (holds := condition()) and time.monotonic() < until:  # noqa: ASYNC110 - across processes
        await asyncio.sleep(POLL_S)
    return holds


async def _send(demo: Demo, simulator: Simulator, seconds: float, rate: float) -> None:
    """Send events, and cut the connection halfway."""
    count = round(seconds * rate)
    for number in range(count):
        if number == count // 2:
            demo.notice("✂ both connections are cut", fg="bright_red")
            for fault in FAULTS:
                await simulator.admin.faults({"fault": fault})
        demo.sent.add(simulator.emit_sample(TYPES[number % len(TYPES)]))
        await asyncio.sleep(1 / rate)


def _counts(demo: Demo) -> dict[str, int]:
    reader = Reader(demo.folder / "journal.db")
    stored = sum(tally.stored for tally in reader.tallies())
    reader.close()
    lost = demo.sent - demo.delivered
    return {"sent": len(demo.sent), "stored": stored, "delivered": len(demo.sent) - len(lost), "lost": len(lost)}


def _say_result(counts: dict[str, int]) -> None:
    text = " · ".join(f"{name} {number}" for name, number in counts.items())
    click.echo()
    click.secho(text, bold=True, fg="red" if counts["lost"] else "green")
    if not counts["lost"]:
        click.echo("(A possible gap says that something may be missing: nobody can see that nothing was on its way.)")
    if counts["lost"]:
        click.echo("Something was lost: this is a defect of rc-push, please report it.", err=True)
    else:
        click.echo(NEXT_STEPS, nl=False)
