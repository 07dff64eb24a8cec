"""How a handler is tested: with made-up events and the daemon's own rules; the simulator for the whole way."""

import os
import subprocess
import sys
import time

import msgspec
from acme_tickets import Tickets, TicketSettings, shout

from rc_push.testing import envelope, run_handler


def lines(spool):
    return (spool / "support.txt").read_text().splitlines()


def test_a_message_that_asks_for_a_ticket_gets_one(tmp_path):
    wanted = envelope("post.added", body={"text": "Ticket: the printer is on fire"})
    result = run_handler(Tickets(TicketSettings(tmp_path)), [wanted, envelope("post.added")])
    assert len(result.delivered) == 2
    assert lines(tmp_path) == [f"{wanted.uuid} the printer is on fire"]


def test_while_the_spool_is_closed_it_comes_again(tmp_path):
    (tmp_path / "closed").touch()
    tickets = Tickets(TicketSettings(tmp_path))

    def reopen(event, calls=[]):  # noqa: B006 - it counts
        calls.append(event)
        if len(calls) == 3:
            (tmp_path / "closed").unlink()
        tickets.handle(event)

    result = run_handler(reopen, [envelope("sms.received")])
    assert (len(result.calls), result.slept_s) == (3, [60, 60])


def test_what_can_never_be_a_ticket_is_parked_with_the_reason(tmp_path):
    odd = msgspec.structs.replace(envelope("post.added"), payload=b'{"uuid":"1","event":"/team-messaging/v1/posts"}')
    result = run_handler(Tickets(TicketSettings(tmp_path)), [odd, envelope("post.added")])
    assert [one.reason for one in result.parked] == ["a message without a body"]
    assert len(result.delivered) == 1


def test_a_failing_message_holds_back_its_own_chat_alone():
    def fail_once(event, failed=set()):  # noqa: B006 - it remembers
        if event.body["groupId"] == "1" and not failed:
            failed.add(event.uuid)
            raise OSError("the ticket system is away")

    first, second = (envelope("post.added", body={"groupId": "1", "text": text}) for text in ("first", "second"))
    other = envelope("post.added", body={"groupId": "2", "text": "other"})
    result = run_handler(fail_once, [first, second, other])
    assert [one.body["text"] for one in result.calls] == ["first", "other", "first", "second"]


def test_a_function_is_a_handler(capsys):
    run_handler(shout, [envelope("telephony.session")])
    assert capsys.readouterr().out == "TELEPHONY.SESSION\n"


def test_all_of_it(simulator, tmp_path):
    config = tmp_path / "rc-push.toml"
    config.write_text(
        '[subscriptions.team]\nevent_filters = ["/team-messaging/v1/posts"]\n'
        f'[handlers.tickets]\nuse = "tickets"\nspool = "{tmp_path}"\n[journal]\npath = "{tmp_path}/journal.db"\n'
    )
    command = [sys.executable, "-m", "rc_push", "-c", str(config), "run"]
    with subprocess.Popen(command, env=os.environ | simulator.environment) as daemon:
        try:
            wait_for(lambda: simulator.subscriptions)
            uuid = simulator.emit("post.added", {"text": "ticket: hello"})
            wait_for(lambda: (tmp_path / "support.txt").exists() and lines(tmp_path) == [f"{uuid} hello"])
        finally:
            daemon.terminate()


def wait_for(condition, within_s=20.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
