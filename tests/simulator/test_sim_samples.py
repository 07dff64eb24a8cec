"""The realistic events."""

from __future__ import annotations

import json
import re

import pytest

from rc_push import event_types
from rc_push.simulator import filters
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.people import ACCOUNT_ID, EXTENSION_ID, User
from rc_push.simulator.samples import SAMPLES, sample


@pytest.mark.parametrize("type_", SAMPLES)
def test_a_sample_is_of_the_type_that_it_is_named_by(type_):
    for number in range(12):
        assert event_types.type_from(*sample(type_, number)) == type_


@pytest.mark.parametrize("type_", SAMPLES)
def test_a_sample_has_an_event_uri_that_can_be_subscribed_to(type_):
    event, _ = sample(type_)
    others = ["/team-messaging/v1/posts"] if type_ == "subscription.reminder" else []
    filters.check([event, *others], User(), Knobs())


@pytest.mark.parametrize("type_", sorted(SAMPLES.keys() - {"extension.updated"}))
def test_samples_differ_by_their_number(type_):
    timeless = [re.sub(r"\d{4}-\d\d-\d\dT[^\"]*", "", json.dumps(sample(type_, number)[1])) for number in (1, 2)]
    assert timeless[0] != timeless[1]


def test_the_samples_belong_to_the_simulators_first_user():
    assert (User().account_id, User().extension_id) == (ACCOUNT_ID, EXTENSION_ID)


def test_an_unknown_type_has_no_sample():
    with pytest.raises(KeyError):
        sample("nonsense")
