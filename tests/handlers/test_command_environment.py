"""A program sees little of its surroundings, and always what it is called for."""

from __future__ import annotations

from rc_push.envelope import Envelope, Source
from rc_push.handlers.command.environment import environment_from, variables_of, variables_of_run
from rc_push.handlers.hand_over import HandOver

DAEMON = {
    "PATH": "/opt/bin:/bin",
    "LANG": "de_DE.UTF-8",
    "HOME": "/root",
    "TZ": "Europe/Berlin",
    "RC_USER_JWT": "planted",
    "NOTIFY_SOCKET": "/run/x",
}


def test_of_the_daemons_environment_a_program_gets_path_and_language_only() -> None:
    expected = {"PATH": "/opt/bin:/bin", "LANG": "de_DE.UTF-8", "HOME": "/home/crm"}
    assert environment_from(DAEMON, home="/home/crm") == expected


def test_a_daemon_without_environment_gives_defaults() -> None:
    assert environment_from({"LANG": ""}, home="/") == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/",
    }


def test_named_variables_are_passed_where_they_are_set_and_given_ones_come_last() -> None:
    found = environment_from(DAEMON, home="/", named=["TZ", "NO_SUCH"], given={"PATH": "/bin", "TOKEN": "x"})
    assert found == {"PATH": "/bin", "LANG": "de_DE.UTF-8", "HOME": "/", "TZ": "Europe/Berlin", "TOKEN": "x"}


def test_the_event_and_the_call_are_named() -> None:
    envelope = Envelope("u-1", "post.added", b"{}", Source("main", "team", "websocket", "recovered"), 0, 7)
    assert variables_of(envelope) | variables_of_run(HandOver("crm", 3)) == {
        "RC_PUSH_EVENT_ID": "u-1",
        "RC_PUSH_TYPE": "post.added",
        "RC_PUSH_ORIGIN": "recovered",
        "RC_PUSH_HANDLER": "crm",
        "RC_PUSH_ATTEMPT": "3",
    }


def test_a_uuid_that_no_variable_can_hold_is_spelled_out() -> None:
    envelope = Envelope("a\0b\n\ud800", "other", b"{}", Source("main", "team", "websocket"), 0)
    assert variables_of(envelope)["RC_PUSH_EVENT_ID"] == "a\\u0000b\\u000a\\ud800"
