"""A handler can ask which call it is in, wherever it runs; nobody else can."""

from __future__ import annotations

import pytest

from rc_push.handlers import adapt
from rc_push.handlers.hand_over import HandOver, begin_hand_over, current_hand_over


async def test_a_handler_knows_its_name_and_the_attempt_also_in_a_thread():
    asked = []
    begin_hand_over(HandOver("crm", 3))
    await adapt("crm", lambda _: asked.append(current_hand_over())).handle(None)
    assert asked == [HandOver("crm", 3)]


def test_outside_of_a_call_there_is_none():
    with pytest.raises(LookupError):
        current_hand_over()
