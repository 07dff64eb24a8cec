"""What happens when, without a tester's hand? A script: JSON lines of admin calls with their times.

    {"atS": 1.5, "path": "/simulator/events", "body": {"count": 100, "ratePerS": 50}}
    {"atS": 3, "path": "/simulator/faults", "body": {"fault": "drop"}}

*atS* is in real seconds since the start. Empty lines and lines that begin with `#` are passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from rc_push.simulator.admin import Admin


class Step(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One call."""

    at_s: Annotated[float, msgspec.Meta(ge=0)]
    path: str
    body: Any = None


def steps_from(text: str) -> list[Step]:
    """Return the steps in *text*, by time. Raises ValueError with the line number."""
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                steps.append(msgspec.json.decode(line, type=Step))
            except (ValueError, RecursionError) as exc:
                raise ValueError(f"line {number}: {exc}") from None
    return sorted(steps, key=lambda step: step.at_s)


async def run(admin: Admin, steps: Sequence[Step]) -> None:
    """Make the calls at their times. Raises ValueError where one is refused."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for step in steps:
        await asyncio.sleep(started + step.at_s - loop.time())
        call = admin.calls.get(step.path)
        if call is None:
            raise ValueError(f"{step.path} is none of {', '.join(admin.calls)}")
        await call(step.body)
