"""What becomes of an event by how its program has ended."""

from __future__ import annotations

import signal

import pytest

from rc_push.errors import Failed, Reject, Retry, detail_of
from rc_push.handlers.command.outcome import failure_from


def outcome(returncode: int, *, in_sandbox: bool = False) -> Retry | Reject | Failed | None:
    return failure_from("/x", returncode, "what it said", retry_after_s=7.0, in_sandbox=in_sandbox)


def test_zero_is_done() -> None:
    assert outcome(0) is None


def test_75_asks_for_another_time_and_is_no_failure() -> None:
    later = outcome(75)
    assert isinstance(later, Retry)
    assert later.delay_s == 7.0


def test_65_parks_at_once() -> None:
    never = outcome(65)
    assert isinstance(never, Reject)
    assert (never.reason, detail_of(never)) == ("/x: exit code 65", "what it said")


@pytest.mark.parametrize("code", [1, 2, 126, 127, 128, 137, 255])
def test_any_other_code_is_a_failed_attempt(code: int) -> None:
    failed = outcome(code)
    assert isinstance(failed, Failed)
    assert (str(failed), detail_of(failed)) == (f"/x: exit code {code}", "what it said")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGSEGV, "/x: ended by SIGSEGV"),
        (signal.SIGXCPU, "/x: ended by SIGXCPU: its processor time, cpu_s, is used up"),
        (signal.SIGSYS, "/x: ended by SIGSYS: a system call that the service may not make, see SystemCallFilter="),
        (40, "/x: ended by signal 40"),
    ],
)
def test_a_signal_is_a_failed_attempt_that_names_it(number: int, text: str) -> None:
    failed = outcome(-number)
    assert isinstance(failed, Failed)
    assert str(failed).startswith(text)


def test_in_the_sandbox_a_signal_comes_as_an_exit_code() -> None:
    assert str(outcome(137, in_sandbox=True)) == "/x: ended by SIGKILL in the sandbox"
    assert str(outcome(255, in_sandbox=True)) == "/x: ended by signal 127 in the sandbox"
    assert str(outcome(128, in_sandbox=True)) == "/x: exit code 128"
