"""The `log` handler tells where an event belongs, and nothing of what it says."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source
from rc_push.errors import ConfigError

PAYLOAD = b'{"uuid":"u-1","event":"/team-messaging/v1/posts","body":{"text":"planted text","id":"9"}}'
ENVELOPE = Envelope("u-1", "post.added", PAYLOAD, Source("main", "team", "websocket"), 0, 1042)


async def logged_by(**settings: object) -> list[dict[str, object]]:
    handler = handlers.load(HandlerConfig(name="log", use="log", settings=settings))
    with capture_logs() as logs:
        await handler.handle(ENVELOPE)
    return [dict(entry) for entry in logs]


async def test_an_event_is_one_line_of_ids() -> None:
    assert await logged_by() == [
        {
            "event": "event_received",
            "log_level": "info",
            "type": "post.added",
            "position": 1042,
            "subscription": "team",
            "event_uri": "/team-messaging/v1/posts",
            "uuid": "u-1",
        }
    ]


async def test_the_text_of_an_event_is_not_logged() -> None:
    assert "planted" not in str(await logged_by())


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_the_level_is_the_users_choice(level: str) -> None:
    assert [entry["log_level"] for entry in await logged_by(level=level)] == [level]


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"handlers\.log\.level.*debug, info, warning or error"):
        handlers.load(HandlerConfig(name="log", use="log", settings={"level": "loud"}))
