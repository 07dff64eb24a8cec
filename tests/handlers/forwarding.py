"""The `forward` handler, loaded and opened as the daemon does it."""

from __future__ import annotations

import contextlib

from rc_push import handlers
from rc_push.config import HandlerConfig

ENVIRON = {"TOKEN": "PLANTED-token", "KEY": "whsec_" + "QUJD" * 11}


def load(url: str, **settings: object) -> handlers.LoadedHandler:
    return handlers.load(HandlerConfig(name="hook", use="forward", settings={"url": url, **settings}), ENVIRON)


@contextlib.asynccontextmanager
async def opened(url: str, **settings: object):
    """Open a handler, which validates unless told otherwise."""
    handler = load(url, **settings)
    await handler.open()
    try:
        yield handler
    finally:
        await handler.close()
