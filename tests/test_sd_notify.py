"""What does systemd hear? Messages on a socket of the test's own, as sd_notify(3) describes them."""

from __future__ import annotations

import os
import socket
import time
import uuid

import pytest

from rc_push.systemd import STATUS_MAX_BYTES, Systemd


class Manager:
    """The other end of `$NOTIFY_SOCKET`."""

    def __init__(self, address):
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self):
        """Return the fields of the messages that came, each message a dict."""
        messages = []
        while True:
            try:
                text = self._socket.recv(1 << 16).decode()
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@rc-push-test/{uuid.uuid4().hex}"
    listening = Manager(address)
    yield listening
    listening.close()


@pytest.fixture
def systemd(manager):
    return Systemd.from_environ({"NOTIFY_SOCKET": manager.address}, 1)


def test_every_message_has_the_form_that_systemd_reads(systemd, manager):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert all((systemd.ready(), systemd.status("live: team"), systemd.alive(), systemd.reloading()))
    assert all((systemd.stopping(25.5), systemd.extend(0.25)))
    ready, status, alive, reloading, stopping, extend = manager.heard()
    assert ready == {"READY": "1"}
    assert status == {"STATUS": "live: team"}
    assert alive == {"WATCHDOG": "1"}
    assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert stopping == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "25500000"}
    assert extend == {"EXTEND_TIMEOUT_USEC": "250000"}


@pytest.mark.parametrize("text", ["a\nREADY=1", "a\r\n\nb", " a\tb ", "\u2028x"])
def test_a_status_is_one_line_and_says_nothing_else(systemd, manager, text):
    systemd.status(text)
    [message] = manager.heard()
    assert message == {"STATUS": " ".join(text.split())}


def test_a_long_status_is_cut_between_two_characters_not_ignored(systemd, manager):
    systemd.status("ü" * 5000 + "\ud800")
    [message] = manager.heard()
    assert message["STATUS"] == "ü" * (STATUS_MAX_BYTES // 2)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_is_sent(environ):
    systemd = Systemd.from_environ({**environ, "WATCHDOG_USEC": "1000000"}, 1)
    assert systemd == Systemd()
    assert not systemd.ready()
    assert systemd.watchdog_s is None


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "41"}, None),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_watchdog_is_on_only_where_it_is_meant_for_this_process(environ, watchdog_s):
    assert Systemd.from_environ({"NOTIFY_SOCKET": "/x", **environ}, 42).watchdog_s == watchdog_s


def test_a_manager_that_is_gone_is_no_reason_to_fail(systemd, manager):
    manager.close()
    assert not systemd.ready()


def test_a_manager_that_does_not_read_is_no_reason_to_wait(systemd, manager):
    sent = 0
    while systemd.alive():
        sent += 1
        assert sent < 1_000_000
    assert not systemd.status("x")
    manager.heard()
    assert systemd.alive()


def test_it_leaves_no_open_file(systemd):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names
    systemd.ready()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
