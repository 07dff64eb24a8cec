"""The `team_post` handler against a receiver on loopback: what is sent, what answers mean, what is never told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs
from webhook_receiver import Receiver, Request, status

import rc_push.testing
from rc_push import __version__, handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, Failed, Reject, Retry, detail_of
from rc_push.handlers import team_post
from rc_push.handlers.own_posts import MARK
from rc_push.handlers.team_post import TEXT_MAX_LENGTH
from rc_push.templates import Template

TOKEN = "PLANTED-aGVsbG8-d29ybGQ"
POSTED = status(200, body=b'{"status":"OK"}')


def load(url: str, text: str = "New: {body.text}", **settings: Any) -> handlers.LoadedHandler:
    table = {"url": {"env": "TEAM_URL"}, "text": text, **settings}
    return handlers.load(HandlerConfig("team", "team_post", settings=table), {"TEAM_URL": url})


def url_of(receiver: Receiver) -> str:
    return f"http://127.0.0.1:{receiver.port}/webhook/v2/{TOKEN}"


@asynccontextmanager
async def opened(receiver: Receiver, **settings: Any) -> AsyncIterator[handlers.LoadedHandler]:
    handler = load(url_of(receiver), **settings)
    await handler.open()
    try:
        yield handler
    finally:
        await handler.close()


async def sent_for(envelope: Envelope, **settings: Any) -> Request:
    """Return the request that is sent for *envelope*."""
    async with Receiver(POSTED).running() as receiver, opened(receiver, **settings) as handler:
        await handler.handle(envelope)
    (request,) = receiver.requests
    return request


async def text_for(envelope: Envelope, **settings: Any) -> str:
    """Return what is posted for *envelope*, without the mark."""
    said = json.loads((await sent_for(envelope, **settings)).body)
    assert said.keys() == {"text"}
    assert said["text"].endswith(MARK)
    return said["text"].removesuffix(MARK)


async def failure_of(answer: Any) -> Exception:
    async with Receiver(answer).running() as receiver, opened(receiver) as handler:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the test's question
            await handler.handle(post("Hello"))
    return caught.value


def post(text: Any, **more: Any) -> Envelope:
    return rc_push.testing.envelope("post.added", body={"text": text, **more})


# -------------------------------------------------------------------------------------------------------- what is sent


async def test_an_event_becomes_one_message():
    request = await sent_for(post("Hello"))
    assert request.line == f"POST /webhook/v2/{TOKEN} HTTP/1.1"
    assert json.loads(request.body) == {"text": "New: Hello" + MARK}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"rc-push/{__version__}"


async def test_a_voicemail_can_be_told_to_a_team():
    voicemail = rc_push.testing.envelope("voicemail.received", body={"from": {"phoneNumber": "+12025550143"}})
    text = "Voicemail from {body.from.phoneNumber || 'nobody'}"
    assert await text_for(voicemail, text=text) == "Voicemail from +12025550143"


@pytest.mark.parametrize("said", ["x" * 20_000, "\U0001f600" * 20_000, "x" + "\U0001f600" * 20_000])
async def test_a_long_text_is_cut_to_what_ringcentral_takes(said):
    text = await text_for(post(said))
    units = len((text + MARK).encode("utf-16-le")) // 2
    assert TEXT_MAX_LENGTH - 1 <= units <= TEXT_MAX_LENGTH
    assert text.endswith("…")
    assert f"New: {said}".startswith(text.removesuffix("…"))


async def test_a_text_that_just_fits_is_not_cut():
    said = "x" * (TEXT_MAX_LENGTH - len(MARK) - len("New: "))
    assert await text_for(post(said)) == f"New: {said}"


async def test_an_event_can_call_nobody_up_but_the_template_can():
    text = await text_for(post("![:Team](990011223344) look"), text="![:Person](1) {body.text}")
    assert text == "![:Person](1) ![\u2060:Team](990011223344) look"


@pytest.mark.parametrize(
    ("template", "first", "second"),
    [
        ("{body.text}{body.more}", "![", ":Person](123)"),
        ("SMS![{body.text}]", ":Team](123) hi", ""),
        ("{body.text}{body.none}{body.more}", "![", ":Person](123)"),
        ("{body.text}:{body.more}", "![", "Person](123)"),
    ],
)
async def test_nor_can_it_with_what_stands_beside_it(template, first, second):
    event = post(first, more=second)
    mention = Template(template).render(event)
    assert "![:" in mention
    text = await text_for(event, text=template)
    assert "[:" not in text
    assert text.replace("\u2060", "") == mention, "nothing else is changed"


async def test_an_event_that_gives_no_text_is_parked():
    async with Receiver(POSTED).running() as receiver, opened(receiver, text="{body.text}") as handler:
        for text in (None, "", " \n"):
            with pytest.raises(Reject, match=r"the template gives no text for this event; leave .* by where"):
                await handler.handle(post(text))
    assert receiver.requests == []


# --------------------------------------------------------------------------------------------------------- own posts


async def test_its_own_posts_are_not_answered_nor_those_of_another_one():
    async with Receiver(POSTED).running() as receiver, opened(receiver) as handler:
        await handler.handle(post("Hello"))
        echo = post(json.loads(receiver.requests[0].body)["text"])
        with capture_logs() as logs:
            await handler.handle(echo)
            async with opened(receiver, text="Again: {body.text}") as other:  # as after a restart
                await other.handle(echo)
            await handler.handle(post("New: Hello"))  # without its mark
        await handler.handle(post("Bye"))
    assert [json.loads(request.body)["text"] for request in receiver.requests] == [
        "New: Hello" + MARK,
        "New: Bye" + MARK,
    ]
    assert [(line["event"], line["log_level"]) for line in logs] == [("own_post", "info")] * 3
    assert logs[0]["position"] == echo.position
    assert "Hello" not in str(logs)


# ------------------------------------------------------------------------------------------------- pace and rate limit


async def test_no_more_go_out_in_a_minute_than_was_said():
    async with Receiver(POSTED).running() as receiver, opened(receiver, per_minute=2) as handler:
        for number in range(2):
            await handler.handle(post(str(number)))
        with pytest.raises(Retry) as caught:
            await handler.handle(post("2"))
    assert len(receiver.requests) == 2
    assert caught.value.for_all
    assert 55 < caught.value.delay_s <= 60
    assert str(caught.value.__cause__) == "per_minute: 2 were sent within a minute"


async def test_what_has_to_wait_is_posted_in_order_and_loses_no_attempt(monkeypatch):
    events = [post(str(number)) for number in range(7)]
    async with Receiver(POSTED).running() as receiver:
        handler = load(url_of(receiver), per_minute=2).handler
        clock = Moving()
        monkeypatch.setattr(handler, "_pace", clock.keep(handler._pace))
        with capture_logs():
            result = await asyncio.to_thread(rc_push.testing.run_handler, handler, events, retry={"max_attempts": 1})
    assert [one.uuid for one in result.delivered] == [one.uuid for one in events]
    assert [json.loads(request.body)["text"] for request in receiver.requests] == [f"New: {n}{MARK}" for n in range(7)]
    assert len(clock.waits) == 3


class Moving:
    """A clock for a `Pace` that is over each wait as soon as it is asked for, as the test's dispatcher is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def keep(self, pace: Any) -> Moving:
        self._pace = pace
        return self

    def take(self, _: float) -> float:
        wait_s = self._pace.take(self.now)
        if wait_s:
            self.waits.append(wait_s)
            self.now += wait_s
        return wait_s


@pytest.mark.parametrize(
    ("headers", "delay_s"), [(("Retry-After: 30",), 30.0), ((), team_post.SILENCE_S), (("Retry-After: x",), 60.0)]
)
async def test_a_429_lets_all_wait_and_is_no_failure(headers, delay_s):
    exc = await failure_of(status(429, *headers, body=b"slowly"))
    assert isinstance(exc, Retry)
    assert (exc.delay_s, exc.for_all, detail_of(exc)) == (delay_s, True, "slowly")


# ------------------------------------------------------------------------------------------------------------- answers


async def test_a_redirect_is_not_followed():
    async with Receiver(POSTED).running() as other:
        exc = await failure_of(status(307, f"Location: http://localhost:{other.port}/webhook"))
    assert isinstance(exc, Reject)
    assert "pointing to localhost; redirects are not followed" in exc.reason
    assert other.connections == 0


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (status(404, body=b"gone"), Reject, "answered 404 Not Found"),
        (status(400, body=b"gone"), Reject, "answered 400 Bad Request"),
        (status(503, body=b"gone"), Failed, "answered 503 Service Unavailable"),
        (
            status(200, body=b'{"status":"error","message":"gone"}'),
            Failed,
            "answered 200 OK, but not that it has posted",
        ),
    ],
)
async def test_what_was_not_posted_is_told(answer, kind, told):
    exc = await failure_of(answer)
    assert type(exc) is kind
    assert told in exc.reason
    assert "gone" not in exc.reason
    assert "gone" in detail_of(exc)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b'{"status":"ok"}',
        b'{"status":"OK"}',
        b"[]",
        b"{}",
        b'{"status":1}',
        b"[" * 7000,
        b"\xff",
        b'{"\xff":1}',
    ],
)
async def test_what_does_not_deny_it_is_a_yes(body):
    async with Receiver(status(200, body=body)).running() as receiver, opened(receiver) as handler:
        await handler.handle(post("Hello"))
    assert len(receiver.requests) == 1


async def test_a_server_that_is_not_there_is_a_failed_attempt_without_a_traceback():
    async with Receiver(POSTED).running() as receiver:
        pass
    async with opened(receiver) as handler:
        with pytest.raises(Failed, match=rf"^http://127.0.0.1:{receiver.port}: connect: Connection refused$"):
            await handler.handle(post("Hello"))


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("form", ["Cannot POST {url}", "Cannot POST /webhook/v2/{token}", "no webhook {token}"])
async def test_an_answer_that_shows_the_url_does_not_get_it_into_the_journal(form):
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        host = request.headers["host"]
        body = form.format(url=f"http://{host}/webhook/v2/{TOKEN}", token=TOKEN).encode()
        writer.write(status(404, body=body))

    exc = await failure_of(answer)
    assert "***" in detail_of(exc)
    assert "PLANTED" not in detail_of(exc) + "".join(traceback.format_exception(exc))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"hooks.example.com/{TOKEN}", "url begins with neither https:// nor http://; copy all of it"),
        (f"http://hooks.example.com/{TOKEN}", "url does not begin with https://, and is a secret; copy all of it"),
        (f"https:///{TOKEN}", "url names no host; copy all of it"),
        (f"https://user:PLANTED@hooks.example.com/{TOKEN}", "url has a user or a password in it"),
    ],
)
def test_a_url_that_is_none_is_told_without_showing_it(url, told):
    with pytest.raises(ConfigError) as caught:
        load(url)
    assert told in str(caught.value)
    assert "PLANTED" not in str(caught.value)


def test_a_url_in_the_file_itself_is_warned_of():
    table = {"url": f"https://hooks.example.com/{TOKEN}", "text": "x"}
    (warning,) = handlers.load(HandlerConfig("team", "team_post", settings=table)).warnings
    assert (warning.key, warning.warning) == ("handlers.team.url", True)
    assert TOKEN not in str(warning)


def test_settings_that_make_no_sense_are_told():
    with pytest.raises(ConfigError) as caught:
        load("https://hooks.example.com/x", text="{x", per_minute=0, channel="x")
    assert {problem.key for problem in caught.value.problems} == {
        f"handlers.team.{name}" for name in ("text", "per_minute", "channel")
    }


def test_aiohttp_is_imported_where_a_handler_is_opened():
    code = (
        "import sys; import rc_push.handlers.team_post as t; from rc_push.config import Secret; "
        "from rc_push.templates import Template; "
        "t.TeamPostHandler(t.TeamPostSettings(Secret('https://hooks.example.com/x'), Template('x'))); "
        "sys.exit('aiohttp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
