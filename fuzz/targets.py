"""What must hold whatever bytes come? One function per way in; an assertion is what its module promises.

Each takes bytes, ends in bounded time and raises nothing: only an AssertionError, or what its module does not declare,
is a finding. `run.py` searches by coverage; tests/test_fuzz.py tries seeds, findings and random changes of both in CI.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import msgspec
from websockets.client import ClientProtocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from rc_push import terminal
from rc_push.cli.certificate import certificate_from
from rc_push.cli.given import Unusable, event_from_json
from rc_push.config import HandlerConfig, SubscriptionConfig, load
from rc_push.config.values import Mistake
from rc_push.config.where import check_where
from rc_push.control.server import UCRED, ControlServer, _Client
from rc_push.envelope import Envelope, Source, Unreadable
from rc_push.errors import ConfigError, Problem, ProtocolError, RcPushError, RestError, RoutingError, UnreachableError
from rc_push.handlers.team_post import judge_post
from rc_push.handlers.webhook_answer import Answer, judge, judge_validation
from rc_push.journal.store import Store
from rc_push.oauth import TokenInfo
from rc_push.operations import OfflineOperations
from rc_push.ordering import key_of
from rc_push.payload import envelope_from_payload
from rc_push.protocol import frames
from rc_push.protocol.crypto import DecryptError, Decryptor
from rc_push.protocol.pubnub import answer_from
from rc_push.protocol.refusals import error_from_response
from rc_push.protocol.subscription import info_from, records_in
from rc_push.protocol.wsg import ClientSession
from rc_push.protocol.wsg_server import Limits, ServerSession
from rc_push.routing import Route
from rc_push.simulator.server import Simulator
from rc_push.templates import PathTemplate, Template, TemplateError
from rc_push.transports.pubnub_messages import Opener
from rc_push.transports.socket import FRAME_MAX_BYTES, Socket

SOURCE = Source("main", "team", "websocket")
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
SUBSCRIPTIONS = {"team": SubscriptionConfig("team", "main", "websocket", ("/x",))}
AT_MS = 1_700_000_000_000
# Of a fuzzed text that is tried on a fuzzed event: what stands before and behind it.
SEPARATOR = b"\n"
# What h11 takes for a header.
HEADER = re.compile(rb"([A-Za-z0-9_-]+): *([\x21-\x7e\x80-\xff](?:[\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)")
# What none of the answers of the simulator, or of a command, may be.
INTERNAL = (500, 70)


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all targets that need one."""
    found = asyncio.new_event_loop()
    atexit.register(found.close)
    return found


@cache
def folder() -> Path:
    """Return a folder of this process."""
    made = tempfile.TemporaryDirectory(prefix="rc-push-fuzz-")
    atexit.register(made.cleanup)
    return Path(made.name)


# ------------------------------------------------------------------------------------------------------------- gateway


def fuzz_frames(data: bytes) -> None:
    """Read a frame; what the quick look says is what the whole reading says."""
    frame = frames.decode(data)
    assert isinstance(frame, frames.Frame | frames.BadFrame)
    quick = frames.notification_in(data)
    if quick is not None and isinstance(frame, frames.Frame):
        assert frame.meta.type == frames.SERVER_NOTIFICATION
        assert isinstance(envelope_from_payload(quick, SOURCE, AT_MS), Unreadable) or json.loads(quick) == json.loads(
            bytes(frame.body)
        )


def fuzz_sessions(data: bytes) -> None:
    """Let both sides of a connection receive one line of *data* after the other; neither raises."""
    ids = iter(range(1 << 30))
    client = ClientSession(new_id=lambda: f"id-{next(ids)}", now=0.0)
    server = ServerSession(session_id="s", oauth_session="o", limits=Limits(), new_id=lambda: f"id-{next(ids)}")
    server.connect(0.0, "2026-11-23T10:00:00.000Z")
    for frame in server.data_to_send():
        client.receive(frame, 0.0)
    client.request("GET", "/x", None, 0.0)
    client.heartbeat(0.0)
    with contextlib.suppress(UnreachableError):  # where nothing answers
        for number, line in enumerate(data.split(SEPARATOR)[:20]):
            client.receive(line, float(number))
            server.receive(line, float(number))
            client.handle_timer(float(number))
    for frame in (*client.data_to_send(), *server.data_to_send()):
        assert isinstance(frames.decode(frame), frames.Frame)


def fuzz_socket(data: bytes) -> None:
    """Let the reader of WebSocket frames read *data* behind a handshake; the first byte says how it is cut."""
    loop().run_until_complete(_read_frames(data[1:], 1 + (data[:1] or b"\xff")[0] * 16))


async def _read_frames(data: bytes, size: int) -> None:
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=FRAME_MAX_BYTES)
    socket = Socket(protocol)
    socket.connection_made(_Transport())
    request = protocol.connect()
    protocol.send_request(request)
    server = ServerProtocol()
    server.receive_data(b"".join(protocol.data_to_send()))
    server.send_response(server.accept(server.events_received()[0]))
    stream = memoryview(b"".join(server.data_to_send()) + data)
    while stream:
        room = socket.get_buffer(-1)
        assert room, "there is always some"
        taken = min(len(room), len(stream), size)
        room[:taken] = stream[:taken]
        stream = stream[taken:]
        socket.buffer_updated(taken)
    assert sum(map(len, socket.inbox.take())) <= len(data)
    if socket.keepalive_task:
        socket.keepalive_task.cancel()


class _Transport(asyncio.Transport):
    def write(self, data: Any) -> None:
        """Lose it."""

    def write_eof(self) -> None:
        """Do nothing."""

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have none."""

    def pause_reading(self) -> None:
        """Go on."""

    def resume_reading(self) -> None:
        """Go on."""

    def abort(self) -> None:
        """Be gone already."""


# ----------------------------------------------------------------------------------------------------------- envelopes


def fuzz_envelopes(data: bytes) -> None:
    """Make an envelope of *data*; one that is stored can be read, ordered, shown and handed on."""
    read = envelope_from_payload(data, SOURCE, AT_MS)
    if isinstance(read, Unreadable):
        assert read.reason
        assert len(read.raw) <= len(data)
        return
    assert 0 < len(read.uuid) <= 200
    assert read.uuid.isprintable()
    assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", read.type)
    line = read.to_json()
    assert b"\n" not in line
    assert json.loads(line)["rcPush"]["type"] == read.type
    assert json.loads(terminal.unobeyed_json(line.decode())) == json.loads(line) or b"NaN" in line
    key_of(read)
    json.dumps(read.body, indent=2)  # as `rc-push events ID` does, deep in a stack of calls
    with contextlib.suppress(Unusable):  # what calls itself ours, and is not
        event_from_json(line, SUBSCRIPTIONS)


# -------------------------------------------------------------------------------------------------------------- PubNub


def fuzz_pubnub(data: bytes) -> None:
    """Take *data* for an answer of PubNub's, as the package reads it, and open all messages in it."""
    try:
        answer = answer_from(json.loads(data))
    except (ProtocolError, ValueError, RecursionError):  # the last two: the package's, which tells of a failed poll
        return
    assert answer.timetoken.isdecimal()
    for keys in ([], [KEY]):
        envelopes, unreadables, _ = Opener(SOURCE, keys).open(answer.messages, AT_MS)
        assert len(envelopes) + len(unreadables) == len(answer.messages), "nothing is dropped"


def fuzz_ciphertexts(data: bytes) -> None:
    """Decrypt *data*: a text, behind one line that is a key."""
    key, _, text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace").partition("\n")
    with contextlib.suppress(DecryptError):
        assert Decryptor(KEY).decrypt(text).lstrip()[:1] == b"{"
    with contextlib.suppress(DecryptError):
        assert Decryptor(key, KEY).decrypt(text).lstrip()[:1] == b"{"


# ---------------------------------------------------------------------------------------------------------------- REST


def fuzz_certificates(data: bytes) -> None:
    """Take *data* for the certificate that a server shows, in DER."""
    certificate = certificate_from(data)
    assert certificate is None or certificate.issuer.isprintable()


def fuzz_refusals(data: bytes) -> None:
    """Take *data* for what REST answers: an error, a subscription, a list, tokens."""
    for status in (400, 401, 403, 429, 503):
        error = error_from_response(status, data)
        assert isinstance(error, RestError)
        assert str(error).isprintable(), "it goes to terminals"
    with contextlib.suppress(RcPushError):
        info_from(data)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        records_in(msgspec.json.decode(data))
        msgspec.json.decode(data, type=TokenInfo, strict=False)


def fuzz_answers(data: bytes) -> None:
    """Take *data* for what the receiver of a forwarded event answers: status, two headers, body."""
    status, retry_after, location, body = (data.split(SEPARATOR, 3) + [b""] * 4)[:4]
    code = 100 + int.from_bytes(status[:2]) % 500
    headers = {"Retry-After": retry_after.decode("latin-1"), "Location": location.decode("latin-1")}
    answer = Answer("https://x", code, headers, body)
    for look in (judge, judge_post):
        with contextlib.suppress(RcPushError):
            look(answer, [], 1_700_000_000.0)
    with contextlib.suppress(RcPushError):
        judge_validation(answer, "token")


# ------------------------------------------------------------------------------------------------------- what is local


def fuzz_config(data: bytes) -> None:
    """Load *data* as the file. Every mistake says where, what and the remedy, on one line."""
    path = folder() / "rc-push.toml"
    path.write_bytes(data)
    problems = []
    try:
        load(path, {"RC_APP_CLIENT_ID": "a", "RC_APP_CLIENT_SECRET": "b", "RC_USER_JWT": "c"})
    except ConfigError as exc:
        problems = exc.problems or [Problem("", "", "")]
    for problem in problems:
        assert problem.found
        assert problem.remedy
        assert "\n" not in str(problem)


def fuzz_control(data: bytes) -> None:
    """Ask the control socket for *data*: one answer of one line, and no mistake of ours."""
    answer = loop().run_until_complete(_ask(data))
    for line in answer.splitlines():
        said = json.loads(line)
        assert said.get("ok") or said.get("end") or said["error"]
        assert said.get("exitCode") not in INTERNAL, said


@cache
def _operations() -> ControlServer:
    store = Store(folder() / "journal.db")
    atexit.register(store.close)
    with store.transaction():
        store.progress.register("crm", None, 0)
    offline = OfflineOperations(store)

    def op(name: str) -> Callable[[dict[str, Any]], Any]:
        async def run(fields: dict[str, Any]) -> Any:
            return offline.run(name, fields)

        return run

    names = ("handlers.pause", "handlers.resume", "handlers.retry", "parked.drop", "replay")
    return ControlServer(folder() / "control", {name: op(name) for name in names})


async def _ask(data: bytes) -> bytes:
    reader, said = asyncio.StreamReader(limit=64 << 10), bytearray()
    reader.feed_data(data)
    reader.feed_eof()
    ucred = UCRED.pack(1, os.geteuid(), 0)

    async def drain() -> None:
        """Have it all taken at once."""

    writer = SimpleNamespace(
        transport=SimpleNamespace(set_write_buffer_limits=lambda **_: None, abort=lambda: None),
        get_extra_info=lambda _: SimpleNamespace(getsockopt=lambda *_: ucred),
        write=said.extend,
        drain=drain,
    )
    client: Any = _Client(reader, writer, 5.0)  # type: ignore[arg-type] # as much of a writer as is used
    await _operations()._converse(client)
    return bytes(said)


def fuzz_where(data: bytes) -> None:
    """Route an event (what follows the first line) by an expression (the first line)."""
    where, _, payload = data.partition(SEPARATOR)
    text = where.decode("utf-8", "replace")
    try:
        check_where(text)
        route = Route(HandlerConfig("h", "log", where=text))
    except (Mistake, ConfigError):
        return
    event = envelope_from_payload(payload, SOURCE, AT_MS)
    if isinstance(event, Envelope):
        with contextlib.suppress(RoutingError):
            assert route.matches(event) == route.decide(event).goes


def fuzz_templates(data: bytes) -> None:
    """Make a text and a path of an event (what follows the first line) by a template (the first line)."""
    template, _, payload = data.partition(SEPARATOR)
    text = template.decode("utf-8", "replace")
    event = envelope_from_payload(payload, SOURCE, AT_MS)
    with contextlib.suppress(TemplateError):
        made = Template(text)
        if isinstance(event, Envelope):
            made.render(event).encode()
    root = Path("/srv/events")
    with contextlib.suppress(TemplateError, ValueError):
        path = PathTemplate(f"{root}/a{text.replace('..', '').replace('/', '')}")
        if isinstance(event, Envelope):
            rendered = Path(os.path.normpath(path.render(event)))
            assert rendered.parent == root, "an event names a file in the folder of the file's text"


# ----------------------------------------------------------------------------------------------------------- simulator


@cache
def _simulator() -> tuple[Simulator, Any]:
    simulator = Simulator()
    simulator.state.server_url, simulator.state.gateway_url = "http://127.0.0.1:1", "ws://127.0.0.1:2/ws"
    return simulator, simulator._app(lambda _: None)


def fuzz_simulator(data: bytes) -> None:
    """Ask the simulator over HTTP: `METHOD PATH`, lines of headers, an empty line, a body. TOKEN is a good one."""
    simulator, _ = _simulator()
    data = data.replace(b"TOKEN", simulator.state.tokens.bot_token(simulator.state.user).encode())
    head, _, body = data.partition(SEPARATOR * 2)
    first, *lines = head.split(SEPARATOR)
    if not re.fullmatch(rb"[A-Z]+ /[\x21-\x7e]*", first):  # h11 lets nothing else through
        return
    method, _, target = first.decode().partition(" ")
    path, _, query = target.partition("?")
    named = [HEADER.fullmatch(line) for line in lines]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(header[1].lower(), header[2]) for header in named if header],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    status = loop().run_until_complete(_serve(scope, body))
    assert status not in INTERNAL


async def _serve(scope: dict[str, Any], body: bytes) -> int:
    simulator, app = _simulator()
    waiting, said = [{"type": "http.request", "body": body}], []

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    try:
        async with asyncio.timeout(0.2):  # a long poll holds
            await app(scope, receive, send)
    except TimeoutError:
        return 200
    finally:
        await simulator.state.reset()
    return int(said[0]["status"])


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): function for name, function in globals().items() if name.startswith("fuzz_")
}
