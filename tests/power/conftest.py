"""How many cuts, from which seed, and what became of them all.

`make test` makes some hundred, of a life that is always the same and of one that never is; `make power CUTS=N` makes N.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from power.cuts import Findings
from power.recording import built_recorder

CUTS = int(os.environ.get("RC_PUSH_POWER_CUTS", "0"))
# Of one recording. Each has a seed of its own.
CUTS_EACH = 200
FIXED_SEED = 20_261_126


def recordings(share, least=2):
    """Have a test run for as many recordings as a *share* of all cuts takes. The first is always the same."""
    count = max(least, round(CUTS * share / CUTS_EACH))
    return pytest.mark.parametrize("seed", range(count), indirect=True, ids=lambda number: f"recording {number}")


@pytest.fixture
def seed(request):
    """Return the seed of a recording and its cuts; it is told, to try them again as RC_PUSH_SEED."""
    told = os.environ.get("RC_PUSH_SEED")
    seed = int(told) if told else random.SystemRandom().randrange(1 << 32) if request.param else FIXED_SEED
    print(f"RC_PUSH_SEED={seed}")  # noqa: T201
    return seed


@pytest.fixture(scope="session")
def recorder(tmp_path_factory):
    """Return the library that records what a process writes; skips where it cannot be built."""
    return built_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def tell(record_property):
    """Tell what became of cuts; fail where a state was not as it has to be."""

    def tell(found: Findings):
        for name in ("cuts", "states", "same"):
            record_property(name, getattr(found, name))
        for name, count in found.by_fate.items():
            record_property(f"fate {name}", count)
        print(f"{found.cuts} cuts, {found.states} states, {found.same} more that are like another")  # noqa: T201
        assert not found.failures, "\n".join(found.failures)

    return tell


def pytest_terminal_summary(terminalreporter):
    """Add up what all recordings gave, whichever process has looked at them."""
    total: Counter[str] = Counter()
    for kind in ("passed", "failed"):
        for report in terminalreporter.stats.get(kind, []):
            if report.when == "call":
                total.update({name: count for name, count in report.user_properties if isinstance(count, int)})
    if CUTS and total:
        terminalreporter.write_line(f"power cut {total['cuts']} times; {total['states']} states of a disk looked at:")
        for name, count in sorted(total.items()):
            if name.startswith("fate "):
                terminalreporter.write_line(f"  {count:7} {name.removeprefix('fate ')}")
