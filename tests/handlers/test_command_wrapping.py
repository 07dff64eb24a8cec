"""Limits and the sandbox are words before the program's own."""

from __future__ import annotations

from resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_CPU, RLIMIT_NPROC

from rc_push.handlers.command.settings import CommandSettings
from rc_push.handlers.command.wrapping import bwrap_words, limits_of, prlimit_words


def test_without_limits_nothing_is_put_before_the_program() -> None:
    assert limits_of(CommandSettings(("/bin/true",))) == {}
    assert prlimit_words("/usr/bin/prlimit", {}, {}) == ()


def test_each_limit_is_a_word_and_processor_time_ends_with_a_signal_that_has_a_name_first() -> None:
    limits = limits_of(CommandSettings(("/bin/true",), cpu_s=5, memory_bytes=1 << 20, nproc=9))
    assert limits == {RLIMIT_CPU: (5, 6), RLIMIT_AS: (1 << 20, 1 << 20), RLIMIT_NPROC: (9, 9)}
    expected = ("/usr/bin/prlimit", "--cpu=5:6", "--as=1048576:1048576", "--nproc=9:9", "--")
    assert prlimit_words("/usr/bin/prlimit", limits, dict.fromkeys(limits, RLIM_INFINITY)) == expected


def test_a_limit_that_this_process_has_itself_is_not_exceeded() -> None:
    assert prlimit_words("p", {RLIMIT_CPU: (60, 61)}, {RLIMIT_CPU: 10}) == ("p", "--cpu=10:10", "--")
    assert prlimit_words("p", {RLIMIT_CPU: (5, 6)}, {RLIMIT_CPU: 10}) == ("p", "--cpu=5:6", "--")


def test_the_sandbox_has_no_network_nothing_to_write_to_and_no_sockets_of_others() -> None:
    words = bwrap_words("/usr/bin/bwrap", "/srv")
    line = " ".join(words)
    assert line.startswith("/usr/bin/bwrap --ro-bind / / ")
    assert line.endswith(" --chdir /srv --")
    assert {"--unshare-all", "--die-with-parent"} <= set(words)
    assert "--tmpfs /run" in line
    assert "--cap-drop ALL" in line
    assert not {"--bind", "--dev-bind", "--share-net"} & set(words)
