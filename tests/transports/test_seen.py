"""How far has a transport seen?"""

from __future__ import annotations

import pytest

from rc_push.transports.seen import later


@pytest.mark.parametrize(
    ("known_ms", "shown_ms", "seen_ms"),
    [
        (500, 700, 700),
        (700, 500, 700),
        (1000, 700, 1000),
        (700, 1500, 1000),
        (1001, 700, 700),
        (3600, 1500, 1000),
    ],
)
def test_it_moves_on_and_never_ahead_of_the_clock_unless_that_was_put_back(known_ms, shown_ms, seen_ms):
    assert later(known_ms, shown_ms, now_ms=1000) == seen_ms
