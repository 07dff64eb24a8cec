"""The command that runs the daemon."""

from __future__ import annotations

import faulthandler
import sys

import click

from rc_push.cli import Settings

# The writer thread waits for a busy event loop to hand the GIL over; Python's own 5 ms are long for that.
SWITCH_INTERVAL_S = 0.0005


@click.command()
@click.option(
    "--unsubscribe",
    is_flag=True,
    help="End the subscriptions at RingCentral when stopping; without it they are kept for the next start.",
)
@click.pass_obj
def run(settings: Settings, *, unsubscribe: bool) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    from rc_push.log import configure
    from rc_push.running import run_to_end
    from rc_push.serve import serve

    config = settings.load()
    configure(config.log)
    faulthandler.enable()  # a daemon that hangs says where, when the watchdog's SIGABRT ends it
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    run_to_end(serve(config, ends_subscriptions=unsubscribe))
