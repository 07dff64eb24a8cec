"""The command that lets a running simulator emit a realistic event."""

from __future__ import annotations

import ipaddress
import json
import time
from typing import Any
from urllib.parse import urlsplit

import click

from rc_push.errors import RcPushError, UnreachableError

WITHIN_S = 30.0


@click.command()
@click.argument("type_", metavar="TYPE")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="E.g. body.text=Hello; JSON, else text.")
@click.option("--count", default=1, type=click.IntRange(1, 10_000), help="How many.  [default: 1]")
@click.option("--server", envvar="RC_SERVER_URL", required=True, metavar="URL", help="The simulator.")
def trigger(type_: str, settings: tuple[str, ...], count: int, server: str) -> None:
    """Emit a realistic event of TYPE (post.added, sms.received …) from a running simulator; print its uuid."""
    from rc_push.simulator.samples import SAMPLES, sample

    if type_ not in SAMPLES:
        raise click.BadParameter(f"{type_!r} is none of {', '.join(SAMPLES)}", param_hint="TYPE")
    _check_server(server)
    first = int(time.time() * 1000) % 1_000_000_000
    events = []
    for number in range(first, first + count):
        event, body = sample(type_, number)
        envelope = {"event": event, "body": body}
        for setting in settings:
            _set(envelope, setting)
        events.append(envelope)
    url = f"{server.rstrip('/')}/simulator/events"
    uuids = post_to(url, events).get("uuids")
    if not isinstance(uuids, list):
        raise RcPushError(f"{url} answered without uuids: is that a simulator?")
    for uuid in uuids:
        click.echo(uuid)


def _check_server(server: str) -> None:
    """Refuse what is no loopback URL: a real RingCentral has no such call, and a stranger must not get one."""
    try:
        url = urlsplit(server)
        is_loopback = url.hostname == "localhost" or ipaddress.ip_address(url.hostname or "").is_loopback
        is_simulator = url.scheme == "http" and is_loopback and url.port != 0
    except ValueError:  # its port is no number, too
        is_simulator = False
    if not is_simulator:
        raise click.BadParameter(
            "not a simulator: only http:// and a loopback address will do; `rc-push simulate` prints its own",
            param_hint="--server / $RC_SERVER_URL",
        )


def _set(envelope: dict[str, Any], setting: str) -> None:
    """Change the place in *envelope* that *setting* names: `body.members.0=7`."""
    path, is_set, text = setting.partition("=")
    *parents, last = path.split(".")
    place: Any = envelope
    try:
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        value = _value(text)
        if isinstance(place, list):
            place[int(last)] = value
        elif isinstance(place, dict) and is_set and (parents or last in envelope):
            place[last] = value
        else:
            raise KeyError(last)  # noqa: TRY301 - one message for every wrong path
    except (KeyError, IndexError, ValueError, TypeError):
        raise click.BadParameter(f"{setting}: no such place; begin with event= or body.", param_hint="--set") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def post_to(url: str, body: Any, within_s: float = WITHIN_S) -> dict[str, Any]:
    """Have the simulator do what *url* stands for; return its answer. Raises RcPushError, UnreachableError."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, Request, build_opener

    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - checked
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=within_s) as response:
            answer = json.load(response)
    except HTTPError as exc:
        with exc:
            reason = exc.read(300).decode("utf-8", "replace")
        raise RcPushError(f"{url} answered {exc.code}: {reason or 'is that a simulator?'}") from None
    except (URLError, OSError) as exc:
        raise UnreachableError(f"{url}: {getattr(exc, 'reason', exc)}; is the simulator running?") from None
    except (HTTPException, ValueError) as exc:  # no URL, no HTTP or no JSON
        raise RcPushError(f"{url}: {exc}; is that a simulator?") from None
    return answer if isinstance(answer, dict) else {}
