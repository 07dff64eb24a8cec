"""The notifications' uuids."""

from __future__ import annotations

import re
import uuid

import pytest

from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.uuids import Uuids

MOMENT_S = 1_795_000_000.0


def uuids(form="decimal", wall=lambda: MOMENT_S):
    return Uuids(Clock(wall=wall), Knobs(uuid_form=form))


@pytest.mark.parametrize("form", ["decimal", "uuid4", "pod"])
def test_uuids_are_unique_however_many_are_taken_in_one_moment(form):
    one = uuids(form)
    taken = [*one.take(1000), *one.take(1), *one.take(5000)]
    assert len(set(taken)) == 6001


def test_decimal_uuids_fit_in_63_bits_and_follow_time_even_when_the_clock_goes_back():
    moments = iter([MOMENT_S, MOMENT_S + 10, MOMENT_S - 10])
    one = uuids(wall=lambda: next(moments))
    taken = [int(value) for _ in range(3) for value in one.take(2)]
    assert taken == sorted(set(taken))
    assert taken[-1] < 1 << 63


def test_a_later_simulator_does_not_repeat_an_earlier_one():
    earlier, later = uuids(), uuids(wall=lambda: MOMENT_S + 1.0)
    assert not {*earlier.take(10_000)} & {*later.take(10_000)}


def test_the_other_forms_look_as_they_were_seen():
    (value,) = uuids("uuid4").take(1)
    assert str(uuid.UUID(value)) == value
    (value,) = uuids("pod").take(1)
    assert re.fullmatch(r"adt-pod01-\d+-\d+-\d+", value)
