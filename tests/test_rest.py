"""One account against a scripted RingCentral on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog
import trustme

from rc_push import __version__
from rc_push.config import AccountConfig, NetworkConfig, Secret
from rc_push.errors import (
    ConfigError,
    CredentialsRefused,
    JournalFull,
    PermissionRefused,
    ProtocolError,
    RateLimited,
    RcPushError,
    RestError,
    ServerError,
    UnreachableError,
)
from rc_push.http import ANSWER_MAX_BYTES
from rc_push.rest import Account

CLIENT_SECRET, JWT, BOT_TOKEN = "planted-client-secret", "planted.user.jwt", "planted-bot-token"
TOKEN, WSTOKEN, REVOKE = "/restapi/oauth/token", "/restapi/oauth/wstoken", "/restapi/oauth/revoke"
THING = "/restapi/v1.0/thing"


# ------------------------------------------------------------------------------------------------- a scripted server


@dataclass
class Reply:
    """One answer: *body* is sent as JSON where it is no bytes; before it, *gate* is waited for; *drop* sends none."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    drop: bool = False


@dataclass
class Seen:
    """One request, as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: str
    connection: tuple[str, int]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body).items()}


class Server:
    """Answers what its script says for a path, its default otherwise; remembers every request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.answered = 0
        self.script: dict[str, deque[Reply]] = defaultdict(deque)
        self.defaults: dict[str, Reply] = {}
        self.tokens = 0
        self.grants: dict[str, Any] = {"refresh_token_expires_in": 604800, "expires_in": 3600}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's names

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *args: None
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        for reply in [*self.defaults.values(), *(reply for replies in self.script.values() for reply in replies)]:
            if reply.gate:
                reply.gate.set()
        self._http.shutdown()
        self._http.socket.close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        seen = Seen(handler.command, handler.path, dict(handler.headers), body, handler.client_address)
        self.seen.append(seen)
        reply = self.script[seen.path].popleft() if self.script[seen.path] else self.default(seen.path)
        if reply.gate:
            reply.gate.wait(10)
        self.answered += 1
        if reply.drop:
            handler.close_connection = True
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode() if reply.body else b""
        data = data.replace(ECHO.encode(), f"{seen.headers.get('Authorization')} {body}".encode())
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(data)

    def default(self, path: str) -> Reply:
        if path == TOKEN:
            return self.grant()
        wstoken = {"ws_access_token": "planted-ws-token", "uri": "ws://127.0.0.1:1/ws", "expires_in": 30}
        return self.defaults.get(path) or Reply(body=wstoken if path == WSTOKEN else {"path": path})

    def grant(self, **changes: Any) -> Reply:
        self.tokens += 1
        grant = {
            "access_token": f"planted-access-{self.tokens}",
            "refresh_token": f"planted-refresh-{self.tokens}",
            "token_type": "bearer",
            "session_id": "s1",
            "owner_id": "233676004",
            **self.grants,
            **changes,
        }
        return Reply(body={name: value for name, value in grant.items() if value is not None})

    def count(self, path: str) -> int:
        return sum(seen.path == path for seen in self.seen)

    def grant_types(self) -> list[str]:
        return [seen.form["grant_type"].rpartition(":")[2] for seen in self.seen if seen.path == TOKEN]


class Store:
    """A session store in memory."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []
        self.fails = False

    async def load_session(self, account: str) -> bytes | None:
        return self.saved[-1] if self.saved else None

    async def save_session(self, account: str, session: bytes) -> None:
        if self.fails:
            raise JournalFull("the disk is full")
        self.saved.append(session)


class Clock:
    """Both clocks; they move when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


def account_at(url: str, store: Store, clock: Clock, network: NetworkConfig | None = None, **changes: Any) -> Account:
    settings = {
        "name": "main",
        "server": url,
        "client_id": "an-id",
        "client_secret": Secret(CLIENT_SECRET),
        "jwt": Secret(JWT),
        **changes,
    }
    return Account(
        AccountConfig(**settings), network or NetworkConfig(), store, wall=clock, now=clock, sleep=clock.sleep
    )


@pytest.fixture
async def account(server: Server, store: Store, clock: Clock) -> AsyncIterator[Account]:
    async with account_at(server.url, store, clock) as account:
        yield account


async def wait_until(condition: Any) -> None:
    """Give the loop to others until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it becomes true in another thread
            await asyncio.sleep(0)


# -------------------------------------------------------------------------------------------------------------- login


async def test_it_logs_in_with_the_jwt(server: Server, account: Account):
    assert await account.access_token() == "planted-access-1"
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", TOKEN)
    assert seen.form == {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": JWT}
    assert seen.headers["Authorization"] == "Basic " + base64.b64encode(f"an-id:{CLIENT_SECRET}".encode()).decode()
    assert seen.headers["User-Agent"] == f"rc-push/{__version__}"
    assert seen.headers["Accept"] == "application/json"


async def test_a_call_carries_method_query_body_and_the_token(server: Server, account: Account):
    answer = await account.request("PUT", THING, query={"a b": "c&d", "n": 1}, body={"x": [1]})
    assert answer == {"path": THING}
    seen = server.seen[-1]
    assert (seen.method, seen.target, seen.body) == ("PUT", THING + "?a+b=c%26d&n=1", '{"x": [1]}')
    assert seen.headers["Authorization"] == "Bearer planted-access-1"
    assert seen.headers["User-Agent"] == f"rc-push/{__version__}"


async def test_an_empty_answer_is_none(server: Server, account: Account):
    server.script[THING].append(Reply(204))
    assert await account.request("DELETE", THING) is None


async def test_a_path_cannot_send_the_token_to_another_host(server: Server, account: Account):
    with pytest.raises(ValueError, match="begins with /"):
        await account.request("GET", "http://127.0.0.1:1/elsewhere")
    assert server.seen == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'{"access_token":7}', b'{"access_token":"a","expires_in":null}']
)
async def test_a_login_answer_that_is_none_is_a_protocol_error(server: Server, account: Account, body: bytes):
    server.script[TOKEN].append(Reply(body=body))
    with pytest.raises(ProtocolError, match=r"account main: POST /restapi/oauth/token"):
        await account.access_token()


async def test_an_account_without_any_credential_is_a_mistake_in_the_file(server: Server, store: Store, clock: Clock):
    async with account_at(server.url, store, clock, jwt=None) as account:
        with pytest.raises(ConfigError, match=r"accounts\.main\.jwt"):
            await account.access_token()


async def test_refused_credentials_are_final_with_code_and_remedy(server: Server, account: Account):
    body = {"error": "invalid_client", "errors": [{"errorCode": "OAU-153", "message": "Invalid client"}]}
    server.script[TOKEN].append(Reply(400, body))
    with pytest.raises(CredentialsRefused, match=r"account main.*OAU-153.*client_secret"):
        await account.wstoken()
    assert len(server.seen) == 1


# ------------------------------------------------------------------------------------------------------------ refresh


async def test_it_refreshes_before_the_token_expires_and_not_sooner(server: Server, account: Account, clock: Clock):
    await account.access_token()
    clock.now += 3600 - 121
    assert await account.access_token() == "planted-access-1"
    clock.now += 1
    assert await account.access_token() == "planted-access-2"
    assert server.seen[-1].form["refresh_token"] == "planted-refresh-1"
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]


async def test_a_short_life_is_refreshed_after_two_thirds(server: Server, account: Account, clock: Clock):
    server.grants["expires_in"] = 90
    await account.access_token()
    clock.now += 59
    assert await account.access_token() == "planted-access-1"
    clock.now += 1
    assert await account.access_token() == "planted-access-2"


async def test_eight_callers_make_one_login_and_one_refresh(server: Server, account: Account, clock: Clock):
    assert set(await asyncio.gather(*(account.access_token() for _ in range(8)))) == {"planted-access-1"}
    clock.now += 3600
    await asyncio.gather(*(account.request("GET", THING) for _ in range(8)))
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]
    tokens = {seen.headers["Authorization"] for seen in server.seen if seen.path == THING}
    assert tokens == {"Bearer planted-access-2"}


async def test_eight_callers_share_one_failure(server: Server, account: Account):
    server.script[TOKEN].append(Reply(503))
    results = await asyncio.gather(*(account.access_token() for _ in range(8)), return_exceptions=True)
    assert [type(result) for result in results] == [ServerError] * 8
    assert server.count(TOKEN) == 1
    assert await account.access_token() == "planted-access-1"


async def test_a_refresh_outlives_its_callers(server: Server, account: Account, clock: Clock, store: Store):
    await account.access_token()
    clock.now += 3600
    gate = threading.Event()
    reply = server.grant()
    reply.gate = gate
    server.script[TOKEN].append(reply)
    callers = [asyncio.create_task(account.access_token()) for _ in range(2)]
    await wait_until(lambda: server.count(TOKEN) == 2)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert all(caller.cancelled() for caller in callers)
    gate.set()
    await wait_until(lambda: len(store.saved) == 2)
    assert await account.access_token() == "planted-access-2"
    assert server.count(TOKEN) == 2


async def test_an_app_without_refresh_tokens_logs_in_again(server: Server, account: Account, clock: Clock):
    server.grants |= {"refresh_token": None, "refresh_token_expires_in": None}
    await account.access_token()
    clock.now += 3600
    assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "jwt-bearer"]


async def test_an_expired_refresh_token_is_not_even_tried(server: Server, account: Account, clock: Clock):
    await account.access_token()
    clock.now += 604800
    await account.access_token()
    assert server.grant_types() == ["jwt-bearer", "jwt-bearer"]


async def test_a_refused_refresh_token_means_another_login(server: Server, account: Account, clock: Clock):
    await account.access_token()
    clock.now += 3600
    body = {"error": "invalid_grant", "errors": [{"errorCode": "OAU-210", "message": "Token expired"}]}
    server.script[TOKEN].append(Reply(400, body))
    assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "refresh_token", "jwt-bearer"]


async def test_a_lost_refresh_answer_is_asked_for_again_with_the_old_token(
    server: Server, account: Account, clock: Clock
):
    await account.access_token()
    clock.now += 3600
    server.script[TOKEN].append(Reply(drop=True))
    assert await account.access_token() == "planted-access-2"
    assert [seen.form.get("refresh_token") for seen in server.seen] == [None, "planted-refresh-1", "planted-refresh-1"]


async def test_a_refresh_that_stays_lost_keeps_the_old_token_for_the_next_attempt(
    server: Server, account: Account, clock: Clock
):
    await account.access_token()
    clock.now += 3600
    server.script[TOKEN] += [Reply(drop=True), Reply(drop=True)]
    with pytest.raises(UnreachableError):
        await account.access_token()
    assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "refresh_token", "refresh_token", "refresh_token"]


async def test_a_refresh_answered_with_5xx_is_no_reason_for_a_login(server: Server, account: Account, clock: Clock):
    await account.access_token()
    clock.now += 3600
    server.script[TOKEN].append(Reply(503, headers={"Retry-After": "15"}))
    with pytest.raises(ServerError) as caught:
        await account.access_token()
    assert caught.value.retry_after_s == 15.0
    await account.access_token()
    assert server.grant_types() == ["jwt-bearer", "refresh_token", "refresh_token"]


# -------------------------------------------------------------------------------------------- a token that died early


@pytest.mark.parametrize("code", ["OAU-128", "OAU-129", "OAU-149", "OAU-213", "AGW-402"])
async def test_a_token_that_died_early_is_refreshed_and_the_call_repeated(server: Server, account: Account, code: str):
    server.script[THING].append(Reply(401, {"errorCode": code, "message": "no"}))
    assert await account.request("GET", THING) == {"path": THING}
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]
    assert server.seen[-1].headers["Authorization"] == "Bearer planted-access-2"


async def test_a_clock_that_was_put_back_makes_no_dead_token_alive(server: Server, account: Account, clock: Clock):
    await account.access_token()
    clock.now -= 3600
    server.script[THING].append(Reply(401, {"errorCode": "OAU-213", "message": "Token not found"}))
    assert await account.request("GET", THING) == {"path": THING}
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]


async def test_a_second_401_ends_it(server: Server, account: Account):
    server.defaults[THING] = Reply(401, {"errorCode": "OAU-213", "message": "Token not found"})
    with pytest.raises(CredentialsRefused, match="OAU-213"):
        await account.request("GET", THING)
    assert server.count(THING) == 2
    assert server.count(TOKEN) == 2


async def test_a_login_that_ends_when_its_token_was_refreshed_needs_another_login(server: Server, account: Account):
    await account.access_token()
    server.script[TOKEN] += [server.grant(), Reply(400, {"error": "invalid_grant", "error_code": "OAU-210"})]
    server.script[THING] += [Reply(401, {"errorCode": code, "message": "no"}) for code in ("OAU-128", "OAU-213")]
    assert await account.request("GET", THING) == {"path": THING}
    assert server.grant_types() == ["jwt-bearer", "refresh_token", "refresh_token", "jwt-bearer"]


async def test_where_two_new_tokens_are_refused_after_an_old_one_that_ends_it(server: Server, account: Account):
    await account.access_token()
    server.defaults[THING] = Reply(401, {"errorCode": "OAU-213", "message": "Token not found"})
    with pytest.raises(CredentialsRefused, match="OAU-213"):
        await account.request("GET", THING)
    assert server.count(THING) == 3


async def test_a_new_token_that_had_to_wait_for_the_limits_may_have_ended_meanwhile(
    server: Server, account: Account, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    exchange = account._exchanges.exchange

    async def after_a_wait(*args: Any) -> Any:
        clock.now += 30
        return await exchange(*args)

    monkeypatch.setattr(account._exchanges, "exchange", after_a_wait)
    server.script[THING] += [Reply(401, {"errorCode": "OAU-213", "message": "Token not found"})] * 2
    assert await account.request("GET", THING) == {"path": THING}
    assert server.grant_types() == ["jwt-bearer", "refresh_token", "refresh_token"]


async def test_eight_calls_with_one_dead_token_make_one_refresh(server: Server, account: Account):
    await account.access_token()
    gate = threading.Event()
    for _ in range(8):
        server.script[THING].append(Reply(401, {"errorCode": "OAU-213"}, gate=gate))
    calls = [asyncio.create_task(account.request("GET", THING)) for _ in range(8)]
    await wait_until(lambda: server.count(THING) == 4)  # one for each worker
    server.script[THING].clear()
    gate.set()
    await asyncio.gather(*calls)
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]


async def test_a_late_refusal_of_an_old_token_leaves_the_new_one_alone(server: Server, account: Account):
    gate = threading.Event()
    server.script[THING] += [Reply(401, {"errorCode": "OAU-213"}, gate=gate), Reply(401, {"errorCode": "OAU-213"})]
    late = asyncio.create_task(account.request("GET", THING))
    await wait_until(lambda: server.count(THING) == 1)
    await account.request("GET", THING)
    gate.set()
    await late
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]
    assert server.seen[-1].headers["Authorization"] == "Bearer planted-access-2"


async def test_a_missing_permission_is_final_and_not_repeated(server: Server, account: Account):
    server.script[WSTOKEN].append(Reply(403, {"errorCode": "CMN-401", "message": "[WebSocket] permission needed"}))
    with pytest.raises(PermissionRefused, match="the permission WebSocket"):
        await account.wstoken()
    assert server.count(WSTOKEN) == 1


# ------------------------------------------------------------------------------------------------------- a bot's token


async def test_a_bots_token_needs_no_login_and_is_not_stored(server: Server, store: Store, clock: Clock):
    async with account_at(server.url, store, clock, jwt=None, access_token=Secret(BOT_TOKEN)) as account:
        await account.wstoken()
        clock.now += 10 * 365 * 86400
        await account.wstoken()
        assert not await account.revoke()
    assert [seen.path for seen in server.seen] == [WSTOKEN, WSTOKEN]
    assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {BOT_TOKEN}"}
    assert store.saved == []


async def test_a_refused_bots_token_is_final(server: Server, store: Store, clock: Clock):
    server.defaults[WSTOKEN] = Reply(401, {"errorCode": "OAU-213", "message": "Token not found"})
    async with account_at(server.url, store, clock, jwt=None, access_token=Secret(BOT_TOKEN)) as account:
        with pytest.raises(CredentialsRefused, match="access_token"):
            await account.wstoken()
    assert [seen.path for seen in server.seen] == [WSTOKEN]


# ------------------------------------------------------------------------------------------------- the stored session


async def test_a_restart_goes_on_with_the_same_session(server: Server, store: Store, clock: Clock):
    async with account_at(server.url, store, clock) as account:
        await account.access_token()
    async with account_at(server.url, store, clock) as account:
        assert await account.access_token() == "planted-access-1"
        assert account.statistics().owner_id == "233676004"
    assert server.count(TOKEN) == 1
    clock.now += 3600
    async with account_at(server.url, store, clock) as account:
        assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "refresh_token"]


@pytest.mark.parametrize("changes", [{"jwt": Secret("another.user.jwt")}, {"client_id": "another-id"}])
async def test_a_changed_configuration_discards_the_session(
    server: Server, store: Store, clock: Clock, changes: dict[str, Any]
):
    async with account_at(server.url, store, clock) as account:
        await account.access_token()
    async with account_at(server.url, store, clock, **changes) as account:
        assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "jwt-bearer"]


NAIVE = b'{"access_token":"x","issued_at":"2026-11-23T10:00:00","expires_at":"2099-11-23T10:00:00"}'


@pytest.mark.parametrize("stored", [b"", b"{", b"null", b'{"access_token":"x"}', NAIVE])
async def test_a_session_that_cannot_be_read_is_discarded(server: Server, store: Store, clock: Clock, stored: bytes):
    store.saved.append(stored)
    async with account_at(server.url, store, clock) as account:
        assert await account.access_token() == "planted-access-1"


async def test_a_token_is_saved_before_it_is_used(server: Server, account: Account, store: Store):
    store.fails = True
    with pytest.raises(JournalFull):
        await account.request("GET", THING)
    assert server.count(THING) == 0
    store.fails = False
    await account.request("GET", THING)
    assert server.count(TOKEN) == 1, "the token that could not be saved is kept, since a login is another session"
    assert len(store.saved) == 1


async def test_revoke_ends_the_session_here_and_there(server: Server, account: Account, store: Store):
    assert not await account.revoke(), "there is none yet"
    await account.access_token()
    assert await account.revoke()
    assert server.seen[-1].path == REVOKE
    assert server.seen[-1].form == {"token": "planted-access-1"}
    assert store.saved[-1] == b""
    assert await account.access_token() == "planted-access-2"
    assert server.grant_types() == ["jwt-bearer", "jwt-bearer"]


async def test_a_failed_revoke_is_not_repeated(server: Server, account: Account):
    await account.access_token()
    server.script[REVOKE].append(Reply(500))
    assert not await account.revoke()
    assert server.count(REVOKE) == 1


# ------------------------------------------------------------------------------------------------------------ wstoken


async def test_wstoken_gives_uri_token_and_life_and_hides_the_token(server: Server, account: Account):
    token = await account.wstoken()
    assert (token.uri, token.token, token.expires_in_s) == ("ws://127.0.0.1:1/ws", "planted-ws-token", 30.0)
    assert "planted" not in repr(token)
    assert server.seen[-1].body == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ws_access_token": "planted-ws-token"}, "uri"),
        ({"ws_access_token": "planted-ws-token", "uri": "http://127.0.0.1/"}, "uri"),
        ({"uri": "ws://127.0.0.1/ws"}, "ws_access_token"),
    ],
)
async def test_a_wstoken_that_lacks_a_field_names_it(server: Server, account: Account, body: Any, words: str):
    server.script[WSTOKEN].append(Reply(body=body))
    with pytest.raises(ProtocolError, match=words) as caught:
        await account.wstoken()
    assert "planted" not in str(caught.value)


async def test_production_has_a_gateway_even_if_the_answer_does_not_say_so(
    server: Server, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rc_push.rest.PRODUCTION", server.url)
    server.script[WSTOKEN].append(Reply(body={"ws_access_token": "planted-ws-token"}))
    async with account_at(server.url + "/", store, clock) as account:
        assert (await account.wstoken()).uri == "wss://ws-api.ringcentral.com/ws"


# ------------------------------------------------------------------------------------------------------------- limits


AUTH_GROUP = {"X-Rate-Limit-Group": "auth", "X-Rate-Limit-Limit": "5", "X-Rate-Limit-Window": "60"}


@pytest.mark.parametrize(
    ("headers", "silence_s"),
    [({**AUTH_GROUP, "Retry-After": "45"}, 45.0), (AUTH_GROUP, 60.0), ({}, 30.0)],
    ids=["with Retry-After", "without", "without any header"],
)
async def test_after_a_429_nothing_is_sent_until_the_penalty_is_over(
    server: Server, account: Account, clock: Clock, headers: dict[str, str], silence_s: float
):
    server.script[WSTOKEN].append(Reply(429, {"errorCode": "CMN-301", "message": "Request rate exceeded"}, headers))
    with pytest.raises(RateLimited) as caught:
        await account.wstoken()
    assert caught.value.retry_after_s == silence_s
    assert (server.count(WSTOKEN), clock.slept) == (1, [])
    clock.now += 10
    await account.wstoken()
    assert clock.slept == [silence_s - 10]
    assert account.statistics().rate_limited == 1


async def test_a_penalty_of_one_group_leaves_the_others_alone(server: Server, account: Account, clock: Clock):
    server.script[WSTOKEN].append(Reply(429, headers=AUTH_GROUP))
    with pytest.raises(RateLimited):
        await account.wstoken()
    await account.request("GET", THING)
    assert clock.slept == []


async def test_the_sixth_request_of_the_auth_group_waits(server: Server, account: Account, clock: Clock):
    for _ in range(4):
        await account.wstoken()
    assert clock.slept == []  # with the login, that was five
    await account.wstoken()
    assert len(clock.slept) == 1
    assert 60 <= clock.slept[0] <= 62


async def test_a_wait_for_the_limit_can_be_cancelled(server: Server, store: Store, clock: Clock):
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with account_at(server.url, store, clock) as account:
        account._exchanges._sleep = sleep
        for _ in range(4):
            await account.wstoken()
        caller = asyncio.create_task(account.wstoken())
        await waiting.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert server.count(WSTOKEN) == 4


async def test_a_429_counts_even_if_its_caller_has_gone(server: Server, account: Account, clock: Clock):
    gate = threading.Event()
    server.script[WSTOKEN].append(Reply(429, headers=AUTH_GROUP, gate=gate))
    caller = asyncio.create_task(account.wstoken())
    await wait_until(lambda: server.count(WSTOKEN) == 1)
    caller.cancel()
    await asyncio.wait({caller})
    gate.set()
    await wait_until(lambda: account._exchanges._limiter.silence_s("POST", WSTOKEN, now=clock.now))
    await account.wstoken()
    assert clock.slept == [60.0]


# -------------------------------------------------------------------------------------------------------- the network


async def test_the_loop_turns_while_the_server_takes_its_time(server: Server, account: Account):
    gate = threading.Event()
    server.script[TOKEN].append(Reply(503, gate=gate))
    call = asyncio.create_task(account.wstoken())
    await wait_until(lambda: server.seen)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not call.done()
    gate.set()
    with pytest.raises(ServerError):
        await call


async def test_two_calls_use_one_connection(server: Server, account: Account):
    await account.request("GET", THING)
    await account.request("GET", THING)
    assert len({seen.connection for seen in server.seen}) == 1


async def test_a_silent_server_is_a_timeout(server: Server, store: Store, clock: Clock):
    server.script[TOKEN].append(Reply(gate=threading.Event()))
    gate = server.script[TOKEN][0].gate
    async with account_at(server.url, store, clock, NetworkConfig(read_timeout_s=0.1)) as account:
        with pytest.raises(UnreachableError) as caught:
            await account.access_token()
    gate.set()
    assert caught.value.phase == "timeout"
    assert account.statistics().unreachable == 1


async def test_a_port_that_nobody_listens_on_is_unreachable(store: Store, clock: Clock):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with account_at(f"http://127.0.0.1:{unused.getsockname()[1]}", store, clock) as account:
            with pytest.raises(UnreachableError, match="Connection refused") as caught:
                await account.access_token()
    assert caught.value.phase == "connect"


async def test_a_name_that_nobody_knows_is_unreachable(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with account_at("http://platform.example", store, clock) as account:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(UnreachableError, match=r"platform\.example") as caught:
            await account.access_token()
    assert caught.value.phase == "dns"


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1)])
async def test_what_may_be_sent_twice_is_where_the_server_hangs_up(server: Server, account: Account, method, times):
    """As a server does with a kept connection that is used again just then."""
    await account.request("GET", "/warm")
    server.script[THING] += [Reply(drop=True)] * 9
    with pytest.raises(UnreachableError):
        await account.request(method, THING)
    assert server.count(THING) == times
    server.script[THING] = deque([Reply(drop=True)] * (times - 1))
    await account.request(method, THING)


async def test_a_dropped_answer_is_unreachable(server: Server, account: Account):
    server.script[TOKEN].append(Reply(drop=True))
    with pytest.raises(UnreachableError) as caught:
        await account.access_token()
    assert caught.value.phase == "read"


async def test_a_redirect_is_not_followed(server: Server, account: Account):
    server.script[THING].append(Reply(302, headers={"Location": f"{server.url}/elsewhere"}))
    with pytest.raises(RestError, match="302"):
        await account.request("GET", THING)
    assert server.count("/elsewhere") == 0


async def test_an_answer_without_end_is_refused(server: Server, account: Account):
    server.script[THING].append(Reply(body=b" " * (ANSWER_MAX_BYTES + 1)))
    with pytest.raises(ProtocolError, match="more than"):
        await account.request("GET", THING)


async def test_an_answer_that_is_no_json_is_a_protocol_error(server: Server, account: Account):
    server.script[THING].append(Reply(body=b"<html>private words"))
    with pytest.raises(ProtocolError, match=r"GET /restapi/v1\.0/thing") as caught:
        await account.request("GET", THING, query={"phoneNumber": "private"})
    assert "private" not in str(caught.value)


async def test_the_environments_proxy_is_used(
    server: Server, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", server.url)
    async with account_at("http://platform.example", store, clock) as account:
        assert await account.access_token() == "planted-access-1"
    assert server.seen[0].target == "http://platform.example" + TOKEN


async def test_our_proxy_goes_before_the_environments(
    server: Server, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with account_at("http://platform.example", store, clock, NetworkConfig(proxy=server.url)) as account:
        assert await account.access_token() == "planted-access-1"


async def test_this_machine_needs_no_proxy(server: Server, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with account_at(server.url, store, clock, NetworkConfig(proxy="http://127.0.0.1:1")) as account:
        assert await account.access_token() == "planted-access-1"


async def test_a_proxy_that_is_down_is_named_without_its_password(store: Store, clock: Clock):
    network = NetworkConfig(proxy="http://me:planted-proxy-password@127.0.0.1:1")
    async with account_at("https://platform.example", store, clock, network) as account:
        with pytest.raises(UnreachableError) as caught:
            await account.access_token()
    assert caught.value.phase == "proxy"
    assert_tells_no_secret(caught.value)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(context) as server:
        yield server


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def test_our_authorities_are_trusted(tls_server: Server, ca_file: Path, store: Store, clock: Clock):
    async with account_at(tls_server.url, store, clock, NetworkConfig(ca_file=ca_file)) as account:
        assert await account.access_token() == "planted-access-1"


async def test_the_environments_authorities_are_trusted(
    tls_server: Server, ca_file: Path, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    async with account_at(tls_server.url, store, clock) as account:
        assert await account.access_token() == "planted-access-1"


async def test_an_unknown_authority_is_a_tls_failure(tls_server: Server, store: Store, clock: Clock):
    async with account_at(tls_server.url, store, clock) as account:
        with pytest.raises(UnreachableError, match="certificate") as caught:
            await account.access_token()
    assert caught.value.phase == "tls"
    assert tls_server.seen == []


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_none_is_a_failure_of_ours(
    tls_server: Server, store: Store, clock: Clock, tmp_path: Path, content: str | None
):
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    async with account_at(tls_server.url, store, clock, NetworkConfig(ca_file=ca_file)) as account:
        with pytest.raises(UnreachableError):
            await account.access_token()


async def test_closing_waits_for_no_answer(server: Server, store: Store, clock: Clock):
    gate = threading.Event()
    server.defaults[THING] = Reply(gate=gate)
    async with account_at(server.url, store, clock) as account:
        call = asyncio.create_task(account.request("GET", THING))
        await wait_until(lambda: server.count(THING) == 1)
        call.cancel()
        await asyncio.wait({call})
    assert server.answered == 1  # the login; the other one still waits
    gate.set()


async def test_one_that_was_opened_beside_another_goes_on_with_what_that_has_left(
    server: Server, store: Store, clock: Clock
):
    class Limited(Store):
        limits = b""

        async def load_limits(self, _account: str) -> bytes:
            return self.limits

        async def save_limits(self, _account: str, limits: bytes) -> None:
            self.limits = limits

        async def note_created(self, _account: str, _id: str) -> None: ...

    def opened(store: Limited) -> Account:
        account = account_at(server.url, store, clock)
        account._exchanges._records = store
        return account

    store = Limited()
    async with opened(store) as old:
        await old.access_token()
        async with opened(store) as new:
            old._expire(old._session)
            session = await old.access_token()  # a refresh: what the new one has read is over
            left = old.statistics().budget["auth"]
            await old.__aexit__(None, None, None)
            await new.take_over()
            assert new.statistics().budget["auth"] == left
            assert await new.access_token() == session
    assert [seen.form["grant_type"] for seen in server.seen][1:] == ["refresh_token"]


async def test_what_waits_for_the_limits_when_it_closes_or_comes_later_gets_an_error(
    server: Server, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    async def sleep(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    waiting = asyncio.Event()
    server.script[THING].append(Reply(429, headers={"Retry-After": "40"}))
    async with account_at(server.url, store, clock) as account:
        monkeypatch.setattr(account._exchanges, "_sleep", sleep)
        with pytest.raises(RateLimited):
            await account.request("GET", THING)
        call = asyncio.create_task(account.request("GET", THING))
        await waiting.wait()
    async with asyncio.timeout(5):
        with pytest.raises(UnreachableError, match="account main: closed"):
            await call
        clock.now += 100
        with pytest.raises(UnreachableError, match="stopped"):
            await account.request("GET", THING)


async def test_closing_lets_a_refresh_end_and_saves_it(server: Server, store: Store, clock: Clock):
    gate = threading.Event()
    reply = server.grant()
    reply.gate = gate
    server.script[TOKEN].append(reply)
    async with account_at(server.url, store, clock) as account:
        call = asyncio.create_task(account.access_token())
        await wait_until(lambda: server.seen)
        call.cancel()
        asyncio.get_running_loop().call_soon(gate.set)
    assert len(store.saved) == 1


def test_importing_rest_loads_neither_requests_nor_the_sdk():
    code = "import sys, rc_push.rest; print({'requests', 'ringcentral', 'urllib3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# ------------------------------------------------------------------------------------------------------------- secrets


def assert_tells_no_secret(exc: BaseException) -> None:
    """Walk everything that hangs on *exc*; frames of ours with their locals, as some log formats show them."""
    text, waiting = "", [exc]
    while waiting:
        error = waiting.pop()
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        frames.stack[:] = [frame for frame in frames.stack if frame.filename != __file__]
        text += f"{error!s} {error!r} {error.args!r} {vars(error)!r}" + "".join(frames.format(chain=False))
        waiting += [
            inner for inner in (error.__cause__, error.__context__, *error.args) if isinstance(inner, BaseException)
        ]
    for secret in ("planted", "Authorization", base64.b64encode(f"an-id:{CLIENT_SECRET}".encode()).decode()):
        assert secret not in text


ECHO = "{echo}"  # what the request had for an Authorization, and its body


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (TOKEN, Reply(400, {"error": "invalid_grant", "error_description": ECHO})),
        (TOKEN, Reply(401, {"errorCode": "OAU-146", "message": ECHO})),
        (TOKEN, Reply(500, {"message": ECHO})),
        (TOKEN, Reply(200, ECHO.encode())),
        (TOKEN, Reply(200, {"access_token": {"planted": ECHO}})),
        (TOKEN, Reply(429)),
        (TOKEN, Reply(drop=True)),
        (THING, Reply(401, {"errorCode": "OAU-149", "message": ECHO})),
        (THING, Reply(403, {"errorCode": "CMN-408", "message": ECHO})),
        (THING, Reply(404, {"errorCode": ECHO, "message": "x"})),
        (THING, Reply(200, ECHO.encode())),
        (THING, Reply(200, b" " * (ANSWER_MAX_BYTES + 1))),
        (THING, Reply(drop=True)),
        (THING, Reply(302, headers={"Location": "http://[planted"})),
        (THING, Reply(200, b"planted, but not gzip", headers={"Content-Encoding": "gzip"})),
    ],
)
async def test_no_failure_tells_a_secret(
    server: Server, account: Account, caplog: pytest.LogCaptureFixture, path: str, reply: Reply
):
    caplog.set_level(logging.DEBUG)
    server.defaults[path] = reply
    if path == TOKEN:
        server.script[TOKEN] += [reply] * 5
    with structlog.testing.capture_logs() as logs:
        try:
            await account.request("GET", THING)
        except RcPushError as exc:
            caught = exc
        else:
            pytest.fail("nothing was raised")
    assert_tells_no_secret(caught)
    assert "planted" not in str(logs) + caplog.text


@pytest.mark.parametrize("token", ["planted\nbot", "planted-böt-☎"])
async def test_a_token_that_no_header_can_carry_is_not_told_either(
    server: Server, store: Store, clock: Clock, token: str
):
    async with account_at(server.url, store, clock, jwt=None, access_token=Secret(token)) as account:
        with pytest.raises(RcPushError) as caught:
            await account.wstoken()
    assert_tells_no_secret(caught.value)


async def test_a_whole_life_logs_what_happened_and_no_secret(
    server: Server, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        async with account_at(server.url, store, clock) as account:
            await account.wstoken()
            clock.now += 3600
            server.script[TOKEN].append(Reply(drop=True))
            await account.wstoken()
            server.script[WSTOKEN].append(Reply(401, {"errorCode": "OAU-213"}))
            await account.wstoken()
            await account.revoke()
    assert [entry["event"] for entry in logs] == [
        "oauth_login",
        "oauth_refresh_lost",
        "oauth_refresh",
        "access_token_refused",
        "oauth_refresh",
        "rate_limit_wait",
    ]
    assert all(entry["account"] == "main" for entry in logs)
    assert "planted" not in str(logs) + caplog.text + repr(account.statistics())
    assert (account.statistics().logins, account.statistics().refreshes) == (1, 2)
