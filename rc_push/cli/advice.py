"""What should its operator do next? One step for each thing that `status` shows and that does not pass by itself.

A pure function of the document that `status --json` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Less than this part of the disk left is worth a word before it is too late.
DISK_LOW = 0.05
# How the reason begins where a subscription cannot move to another transport (`transports/moving.py`).
NOT_MOVED = ("not moved to ", "cannot move to ")


def actions_for(document: dict[str, Any]) -> list[dict[str, str]]:
    """Return what to do, the most urgent first: *what* is wrong, and what to *do* about it."""
    steps = [
        *_daemon(document),
        *_journal(document["journal"]),
        *_subscriptions(document["subscriptions"]),
        *_handlers(document["handlers"]),
        *_gaps(document["gaps"]),
    ]
    return [{"what": what, "do": do} for what, do in steps]


def _daemon(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if document["daemon"] is None and document["isRunning"]:
        yield "rc-push does not answer", "systemctl restart rc-push; its log may say why: journalctl -u rc-push"
    elif document["daemon"] is None:
        yield "rc-push is not at work", "systemctl start rc-push; its log says why it has ended: journalctl -u rc-push"
    elif document["config"]["mistake"]:
        yield "the file is not in force as it is", "rc-push check --offline, then rc-push reload"


def _journal(journal: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if journal.get("why"):
        yield f"the journal: {journal['why']}", "mend the handler that is behind, or raise [journal] max_bytes"
    free, size = journal.get("diskFreeBytes", 0), journal.get("diskBytes", 0)
    if size and free < DISK_LOW * size:
        yield f"the disk of the journal is nearly full ({free / 1e6:.0f} MB left)", "make room"


def _subscriptions(subscriptions: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for one in subscriptions:
        name = one["subscription"]
        if one.get("isFinal"):
            yield f"{name} is refused for good", "mend what its reason says, then rc-push reload"
        elif one["state"] == "degraded" and one["why"].startswith(NOT_MOVED):
            yield f"{name} has not moved", "mend what its reason says; the old transport goes on meanwhile"
        elif one["state"] == "degraded" and (one["isServed"] or one.get("isAllRefused")):
            yield f"{name} is degraded", "give the permission that is missing, or take the filter out: rc-push check"
        elif one["state"] in ("degraded", "down"):
            yield f"{name} is {one['state']}", "nothing, unless it goes on; then: rc-push check"


def _handlers(handlers: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for one in handlers:
        name = one["handler"]
        if one["state"] in ("failing", "trying"):
            yield f"{name} fails", "mend what it talks to; its events wait"
        if one["state"] == "paused":
            yield f"{name} is paused", f"when it is to go on: rc-push handlers resume {name}"
        if one.get("parked"):
            step = f"rc-push parked --handler {name}, then rc-push handlers retry {name}"
            yield f"{name} has given up on {one['parked']}", step


def _gaps(gaps: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if gaps.get("open"):
        yield f"gaps are open: {gaps['open']}", "an open one ends when its subscription is live; see rc-push gaps"
