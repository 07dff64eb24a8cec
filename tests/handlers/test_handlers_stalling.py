"""A reader that takes nothing is waited for, and not for ever."""

from __future__ import annotations

import os

import pytest

from rc_push.handlers import stalling
from rc_push.handlers.stalling import wait_writable


def test_a_pipe_is_writable_until_it_is_full(monkeypatch):
    monkeypatch.setattr(stalling, "STALL_MAX_S", 0.0)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        wait_writable(writer)
        assert os.write(writer, bytes(1 << 20)) < 1 << 20
        with pytest.raises(TimeoutError, match="its reader took nothing for 0 s"):
            wait_writable(writer)
    finally:
        os.close(reader)
        os.close(writer)
