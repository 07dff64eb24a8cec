"""The fixture that pytest finds once rc-push is installed. Every run loads it, so it imports nothing early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rc_push.testing import SimulatorThread


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    """Run a RingCentral on loopback for one test; see `rc_push.testing.SimulatorThread`."""
    from rc_push.testing import SimulatorThread  # noqa: PLC0415 - see the top

    running = SimulatorThread()
    running.start()
    yield running
    running.stop()
