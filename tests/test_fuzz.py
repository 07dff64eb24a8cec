"""The targets of the fuzzer hold for their seeds, for all that was ever found, and for random changes of both.

`make fuzz` searches on, led by coverage.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import seeds
import targets

SEEDS = {name: seeds.seeds_for(name) for name in targets.TARGETS}
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\n",
    b"\x00",
    b"\xff",
    b"\\ud800",
    b"1e999",
    b"9" * 30,
    b"null",
]


@pytest.fixture(scope="module", autouse=True)
def _in_a_folder_of_the_tests(tmp_path_factory):
    """Have the targets' files where pytest tidies up: a worker of xdist ends without doing so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("fuzz")))
        yield


@st.composite
def changed(draw, originals):
    """Draw one of *originals*, cut, joined to another, or with other pieces in it."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 8))
        other = draw(
            st.sampled_from(PIECES)
            | st.binary(max_size=4)
            | st.sampled_from(originals).map(lambda other, at=at: other[at:])
        )
        data = data[:at] + other + data[at + gone :]
    return data


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_the_search_begins_with_holds(name):
    assert SEEDS[name]
    for data in (*SEEDS[name], b""):
        targets.TARGETS[name](data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_whatever_comes_holds(name):
    @settings(max_examples=settings.get_profile(settings.get_current_profile_name()).max_examples,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(changed(SEEDS[name]) | st.binary(max_size=200))
    def check(data):
        targets.TARGETS[name](data)

    check()
