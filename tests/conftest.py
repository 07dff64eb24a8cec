"""How Hypothesis searches: the same examples each time, so that a change fails by its own doing. What holds for all.

`make search` draws new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import Phase, settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.register_profile("mutants", settings.get_profile("steady"), phases=[Phase.explicit, Phase.generate])
if "MUTANT_UNDER_TEST" in os.environ:  # by mutmut, to which one failure is as good as a short one
    settings.load_profile("mutants")
else:
    settings.load_profile("search" if os.environ.get("RC_PUSH_SEARCH") else "steady")


@pytest.fixture(autouse=True)
def _log_is_as_it_was() -> Iterator[None]:
    """Let no test log as the one before has configured it: a command that runs in this process does so."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes one worker longest: the others do all the rest meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
