"""Where the payloads lie must make no difference: what the journal does is tested with them in rows and in segments."""

from __future__ import annotations

from contextlib import closing

import pytest

from rc_push.journal import store as store_module
from rc_push.journal.store import Store

ROWS, SEGMENTS, SOME = 1 << 60, 1, 600
IN_BOTH = {"rows": ROWS, "segments": SEGMENTS}
WHERE = {
    "test_audit": IN_BOTH,
    "test_disk_trouble": {"some": SOME},
    "test_disk_trouble_commands": {"some": SOME},
    "test_journal": IN_BOTH,
    "test_journal_retention": IN_BOTH,
    "test_progress": IN_BOTH,
    "test_reader": IN_BOTH,
    "test_salvage": {"rows": ROWS},
    "test_store": IN_BOTH,
}
# Of classes of unittest's kind, which take no parameters.
UNITTEST = {"test_state_machine": SOME}


def pytest_generate_tests(metafunc):
    where = WHERE.get(metafunc.module.__name__.rpartition(".")[2])
    if where:
        metafunc.parametrize("segment_min_bytes", list(where.values()), ids=list(where), indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def segment_min_bytes(request):
    """From which size on the payloads of a batch go into a segment; as it is where nothing is said above."""
    with pytest.MonkeyPatch.context() as patch:
        usual = UNITTEST.get(request.module.__name__, store_module.SEGMENT_MIN_BYTES)
        patch.setattr(store_module, "SEGMENT_MIN_BYTES", getattr(request, "param", usual))
        yield store_module.SEGMENT_MIN_BYTES


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def store(path):
    with closing(Store(path)) as store:
        yield store
