"""A sealed file is read from its beginning, changed by nobody, and leaves nothing behind where it cannot be made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rc_push.handlers import sealed
from rc_push.handlers.sealed import sealed_file


@pytest.mark.parametrize("content", [b"", b"line\n", b"x" * (1 << 20)], ids=len)
def test_it_is_read_from_its_beginning_and_can_be_changed_by_nobody(content):
    file = sealed_file("test", content)
    try:
        with os.fdopen(os.dup(file), "rb") as reader:
            assert reader.read() == content
        for change in (lambda: os.pwrite(file, b"y", 0), lambda: os.ftruncate(file, len(content) + 1)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(file)


def test_where_memory_is_full_no_descriptor_is_left(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(sealed.os, "write", full)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            sealed_file("test", b"line\n")
    assert descriptors() == before


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))
