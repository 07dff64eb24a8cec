"""How Hypothesis searches: the same examples each time, so that a change fails by its own doing.

`make search` draws new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("search" if os.environ.get("RC_PUSH_SEARCH") else "steady")
