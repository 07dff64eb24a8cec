"""The command that runs a RingCentral on loopback."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TextIO

import click

from rc_push.errors import RcPushError

if TYPE_CHECKING:
    from rc_push.simulator.knobs import Knobs
    from rc_push.simulator.script import Step
    from rc_push.simulator.server import Simulator


@click.command()
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The HTTP port; 0 = any that is free.")
@click.option("--speed", default=1.0, metavar="N", help="RingCentral's times, divided by N.  [default: 1]")
@click.option("--script", type=click.File(encoding="utf-8"), help="JSON lines: what to do when; see the module's text.")
@click.option("--knob", "knobs", multiple=True, metavar="NAME=VALUE", help="Turn a knob; a wrong name lists them all.")
def simulate(port: int, speed: float, script: TextIO | None, knobs: tuple[str, ...]) -> None:
    """Simulate RingCentral on loopback until Ctrl-C; one JSON line says where it is and how to log in.

    \b
    A script's line: {"atS": 1.5, "path": "/simulator/faults", "body": {"fault": "drop"}}
    with atS in real seconds since the start.
    """  # noqa: D301 - click's mark for "leave these lines alone"
    if not 0 < speed <= 1_000_000:  # noqa: PLR2004 - above it, every time is 0
        raise click.BadParameter("a number above 0, up to 1000000", param_hint="--speed")
    asyncio.run(_serve(port, speed, _knobs(knobs), _steps(script)))


def _knobs(settings: tuple[str, ...]) -> Knobs:
    from rc_push.simulator.knobs import Knobs

    knobs = Knobs()
    for setting in settings:
        name, is_set, value = setting.partition("=")
        if not is_set:
            raise click.BadParameter(f"{setting}: not NAME=VALUE", param_hint="--knob")
        try:
            knobs.turn({name: value})
        except ValueError as exc:
            raise click.BadParameter(str(exc), param_hint="--knob") from None
    return knobs


def _steps(script: TextIO | None) -> list[Step]:
    from rc_push.simulator.script import steps_from

    try:
        return steps_from(script.read()) if script else []
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--script") from None


async def _serve(port: int, speed: float, knobs: Knobs, steps: list[Step]) -> None:
    from rc_push.simulator.server import Simulator

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            simulator = await stack.enter_async_context(Simulator(port, speed=speed, knobs=knobs))
        except OSError as exc:
            raise RcPushError(f"port {port}: {exc.strerror}") from None
        click.echo(json.dumps(simulator.ready))
        click.echo(f"rc-push: simulating RingCentral at {simulator.server}; Ctrl-C ends it", err=True)
        await _wait(stop, simulator, steps)


async def _wait(stop: asyncio.Event, simulator: Simulator, steps: list[Step]) -> None:
    """Play the script, and go on until *stop*."""
    from rc_push.simulator.script import run

    script = asyncio.create_task(run(simulator.admin, steps))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([script, stopped], return_when=asyncio.FIRST_COMPLETED)
        if script.done():
            script.result()
        await stopped
    except ValueError as exc:
        raise RcPushError(f"script: {exc}") from None
    finally:
        script.cancel()
        stopped.cancel()
