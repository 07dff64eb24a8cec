"""What has `doctor` found? One record per hop, with the evidence, and the rule to ask the firewall's owner for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import click

from rc_push.errors import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    ConfigError,
    RcPushError,
    RefusedError,
    RestError,
)
from rc_push.terminal import printable

Level = Literal["ok", "warning", "problem", "skipped"]

MARKS = {
    "ok": click.style("✓", fg="green"),
    "warning": click.style("!", fg="yellow"),
    "problem": click.style("✗", fg="red"),
    "skipped": click.style("·", fg="white"),
}
# Which exit code stands for all: what has to be repaired first.
WORST_FIRST = (EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the owner of a firewall or proxy is asked for: *ask*, for *host* and *port*, where *protocol* is spoken."""

    host: str
    port: int
    protocol: str
    ask: str

    def __str__(self) -> str:
        return f"{self.ask} ({self.protocol} to {self.host}, port {self.port})"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the way: what was tried, at which *target*, and what was *found*."""

    level: Level
    hop: str
    target: str
    found: str
    remedy: str = ""
    rule: Rule | None = None
    exit_code: int = EXIT_FAILED

    def to_dict(self) -> dict[str, object]:
        """Return the form that `doctor --json` prints."""
        names = ("level", "hop", "target", "found", "remedy")
        return {name: getattr(self, name) for name in names} | {"rule": asdict(self.rule) if self.rule else None}

    def __str__(self) -> str:
        lines = [f"{MARKS[self.level]} {self.hop:<11} {printable(f'{self.target}: {self.found}')}"]
        if self.remedy:
            lines.append(f"              → {printable(self.remedy)}")
        if self.rule:
            lines.append(f"              ask the firewall's owner: {printable(str(self.rule))}")
        return "\n".join(lines)


class Report:
    """All hops so far; each is told at once, since some take their time."""

    def __init__(self, tell: Callable[[Hop], None]) -> None:
        self.hops: list[Hop] = []
        self._tell = tell

    def add(self, hop: Hop) -> None:
        """Take *hop*."""
        self.hops.append(hop)
        self._tell(hop)

    def ok(self, hop: str, target: str, found: str) -> None:
        """Tell of a hop that works."""
        self.add(Hop("ok", hop, target, found))

    def skipped(self, hop: str, target: str, found: str) -> None:
        """Tell of a hop that was not tried, and why."""
        self.add(Hop("skipped", hop, target, found))

    def failed(self, hop: str, target: str, exc: RcPushError, rule: Rule | None = None) -> None:
        """Tell of a hop that *exc* has ended."""
        found, remedy = (exc.found, exc.remedy) if isinstance(exc, RefusedError) else (str(exc), "")
        if isinstance(exc, ConfigError):
            found, remedy = exc.problems[0].found, exc.problems[0].remedy
        code = exc.exit_code
        if code == EXIT_FAILED and not isinstance(exc, RestError):
            code = EXIT_UNREACHABLE
        self.add(Hop("problem", hop, target, found, remedy, rule, code))

    @property
    def problems(self) -> list[Hop]:
        """The hops that fail."""
        return [hop for hop in self.hops if hop.level == "problem"]

    @property
    def exit_code(self) -> int:
        """What the command returns."""
        codes = [hop.exit_code for hop in self.problems]
        return next((code for code in WORST_FIRST if code in codes), EXIT_FAILED if codes else EXIT_OK)
