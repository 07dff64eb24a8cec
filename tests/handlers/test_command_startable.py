"""Whether a file can be started, and if not, why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rc_push.handlers.command.startable import why_not_startable


def script(path: Path, beginning: bytes, mode: int = 0o755) -> str:
    path.write_bytes(beginning)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("beginning", [b"#!/bin/sh\n", b"#! /bin/sh -e\n", b"#!/usr/bin/env python3", b"\x7fELF", b""])
def test_nothing_speaks_against_a_program_or_a_script(tmp_path: Path, beginning: bytes) -> None:
    assert why_not_startable(script(tmp_path / "x", beginning)) == ""


@pytest.mark.parametrize(
    ("beginning", "why"),
    [
        (b"#!/no/such/sh -e\n", "its interpreter '/no/such/sh': no such file or directory"),
        (b"#!/bin/sh\r\necho\r\n", "its interpreter '/bin/sh\\r': no such file or directory"),
        (b"#!/etc\n", "its interpreter '/etc': is a directory"),
        (b"#!/etc/passwd\n", "its interpreter '/etc/passwd': is not executable for this user"),
        (b"#! \n", "its first line names no interpreter"),
    ],
)
def test_a_bad_interpreter_is_named(tmp_path: Path, beginning: bytes, why: str) -> None:
    assert why_not_startable(script(tmp_path / "x", beginning)) == why


def test_what_is_no_program_is_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert why_not_startable(str(tmp_path / "none")) == "no such file or directory"
    assert why_not_startable(str(tmp_path)) == "is a directory"
    assert why_not_startable(str(tmp_path / "fifo")) == "is no file"
    assert why_not_startable(script(tmp_path / "x", b"#!/bin/sh\n", 0o644)) == "is not executable for this user"
    assert why_not_startable(script(tmp_path / "y", b"") + "/z") == "not a directory"
