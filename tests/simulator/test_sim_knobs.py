"""Knobs, and how they are turned."""

from __future__ import annotations

import pytest

from rc_push.simulator.knobs import ALL_PERMISSIONS, Knobs


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"auth_limit": "7"}, "auth_limit", 7),
        ({"rate_limits": "false"}, "rate_limits", False),
        ({"ws_token_s": "1.5"}, "ws_token_s", 1.5),
        ({"permissions": "A,B"}, "permissions", ("A", "B")),
        ({"permissions": ""}, "permissions", ()),
        ({"permissions": ["A"]}, "permissions", ("A",)),
        ({"in_flight": "replayed"}, "in_flight", "replayed"),
        ({"recovery_timeout_s": 3}, "recovery_timeout_s", 3.0),
    ],
)
def test_a_knob_takes_its_value_as_text_or_as_json(changes, name, value):
    knobs = Knobs()
    knobs.turn(changes)
    assert getattr(knobs, name) == value


@pytest.mark.parametrize("changes", [{"nonsense": 1}, {"in_flight": "maybe"}, {"auth_limit": -1}, {"rate_limits": "x"}])
def test_a_wrong_turn_changes_nothing_and_names_the_knobs(changes):
    knobs = Knobs()
    with pytest.raises(ValueError, match="the knobs are access_token_s"):
        knobs.turn({"subscription_limit": 3} | changes)
    assert knobs == Knobs()


def test_all_can_be_set_back():
    knobs = Knobs(auth_limit=1, permissions=())
    knobs.copy_from(Knobs())
    assert knobs == Knobs()
    assert knobs.permissions == ALL_PERMISSIONS
