"""The command that tests routes: fixtures with an event in, and the handlers that are to get it out.

{"event": {"uuid": "1", "event": "/team-messaging/v1/posts", "body": {…}}, "handlers": ["crm", "log"]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from rc_push.cli import Settings
from rc_push.cli.explain import Router, Verdict
from rc_push.cli.given import EVENT_MAX_BYTES, Unusable, event_from_json
from rc_push.cli.journal import json_option
from rc_push.config import SubscriptionConfig
from rc_push.config.words import nearest, short
from rc_push.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from rc_push.terminal import printable


class _Fixture(msgspec.Struct, forbid_unknown_fields=True):
    """One file. *subscription* says over which one the event came, where there are several and no `rcPush` in it."""

    event: msgspec.Raw
    handlers: tuple[str, ...]
    subscription: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one fixture gave: the handlers that differ from what it expects; *reason* where it cannot be used."""

    path: Path
    differences: tuple[Verdict, ...] = ()
    reason: str = ""

    @property
    def word(self) -> str:
        """Return the result in one word."""
        return "unusable" if self.reason else "different" if self.differences else "as expected"

    def to_dict(self) -> dict[str, object]:
        """Return the form that `test --json` prints."""
        differences = [
            {"handler": verdict.handler, "goes": verdict.goes, "why": verdict.why} for verdict in self.differences
        ]
        return {"fixture": str(self.path), "result": self.word, "differences": differences, "reason": self.reason}


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
@click.pass_obj
def test(settings: Settings, directory: Path, *, as_json: bool) -> int:
    """Test the routes with the fixtures in DIR: the event in, the expected handlers out.

    A fixture is a file NAME.json, in DIR or below: {"event": {…}, "handlers": ["crm", "log"]}. Its event is as
    RingCentral's webhooks carry it, or a line of ours. "subscription": "NAME" says over which one it came.
    """
    subscriptions, handlers = settings.load_routes()
    router = Router(handlers)
    paths = list(_fixtures_in(directory))
    if not paths:
        raise click.BadParameter(f"there is no fixture NAME.json in {printable(str(directory))}", param_hint="DIR")
    counts: Counter[str] = Counter()
    for path in paths:
        result = _result(path, subscriptions, router)
        counts[result.word] += 1
        if as_json:
            click.echo(json.dumps(result.to_dict()))
        else:
            for line in _lines(result):
                click.echo(line)
    if not as_json:
        total = "1 fixture" if len(paths) == 1 else f"{len(paths)} fixtures"
        click.echo(f"{total}: " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    return EXIT_CONFIG if counts["unusable"] else EXIT_FAILED if counts["different"] else EXIT_OK


def _fixtures_in(directory: Path) -> Iterator[Path]:
    """Yield the files NAME.json in *directory* and below, but for what is hidden."""
    for path in sorted(directory.rglob("*.json")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.is_file() and not is_hidden:
            yield path


def _result(path: Path, subscriptions: Mapping[str, SubscriptionConfig], router: Router) -> Result:
    try:
        fixture = _read(path)
        say = 'add "subscription": "NAME"'
        envelope = event_from_json(bytes(fixture.event), subscriptions, fixture.subscription, say=say)
    except Unusable as exc:
        return Result(path, reason=str(exc))
    verdicts = router.verdicts(envelope)
    names = [verdict.handler for verdict in verdicts]
    if strangers := [name for name in fixture.handlers if name not in names]:
        return Result(path, reason=f"there is no handler {short(strangers[0])}; {nearest(strangers[0], names)}")
    return Result(
        path, tuple(verdict for verdict in verdicts if verdict.goes is not (verdict.handler in fixture.handlers))
    )


def _read(path: Path) -> _Fixture:
    """Return what the file says. Raises Unusable."""
    try:
        with path.open("rb") as file:
            content = file.read(EVENT_MAX_BYTES + 1)
    except OSError as exc:
        raise Unusable(f"cannot be read: {(exc.strerror or '').lower()}") from None
    if len(content) > EVENT_MAX_BYTES:
        raise Unusable(f"longer than {EVENT_MAX_BYTES >> 20} MiB, which no event is")
    try:
        return msgspec.json.decode(content, type=_Fixture)
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except msgspec.ValidationError as exc:
        raise Unusable(f'{exc}; write {{"event": {{…}}, "handlers": […]}}') from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unusable(f"not JSON: {exc}") from None


def _lines(result: Result) -> Iterator[str]:
    """Yield what differs, as a diff for people; nothing where all is as expected."""
    name = printable(str(result.path))
    if result.reason:
        yield f"{name}: {click.style('unusable', fg='red')}: {printable(result.reason)}"
    elif result.differences:
        yield f"{name}: {click.style('different', fg='red')}"
    for verdict in result.differences:
        why = printable(verdict.why)
        if verdict.goes is None:
            yield click.style(f"  ! {verdict.handler} would park it: {why}", fg="red")
        elif verdict.goes:
            yield click.style(f"  + {verdict.handler} gets it, which is not expected: {why}", fg="green")
        else:
            yield click.style(f"  - {verdict.handler} is expected, but does not get it: {why}", fg="red")
