"""Does a soak run? A short one over real processes: some troubles, and all has to add up. `make soak` is the rest."""

from __future__ import annotations

import pytest
import soak
import tables
from ground import SERVICE_ENVIRON
from troubles import ROTATION, SHORT


@pytest.mark.e2e
@pytest.mark.alone
async def test_a_short_soak_adds_up(tmp_path, capsys):
    plan = soak.Plan(sum(trouble.lasts_s for trouble in SHORT), SHORT, sample_every_s=1.0)
    told = await soak.play(plan, tmp_path)
    assert told.complaints == []
    assert [name for name, *_ in told.times] == [trouble.name for trouble in SHORT]
    for account in told.accounts:
        assert account.emitted == account.stored + len(account.missing) > 100
    assert told.seen["file"] == told.seen["forward"] == sum(account.stored for account in told.accounts)
    assert list((tmp_path / "journal.db-segments").iterdir()), "some batches went into segments"

    soak.show(told, soak.findings_of(told, 0.0), 0.0)
    shown = capsys.readouterr().out
    assert "connection reset" in shown
    assert "too short a run to tell" in shown


def test_the_daemon_is_given_what_the_service_has_in_its_environment():
    assert SERVICE_ENVIRON.keys() == {"MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}


def test_every_trouble_has_time_for_its_steps():
    for trouble in ROTATION:
        assert all(step.after_s < trouble.lasts_s for step in trouble.steps), trouble.name


def test_a_table_has_as_many_cells_in_each_row():
    lines = tables.table(("a", "b"), [(1, 2), (3, 4)]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |"]
