"""How does a notification get to a webhook? Posted, and judged, as RingCentral does (protocol.md 6).

Knows HTTP as a client, what makes an answer good, and when RingCentral gives up; knows nothing of filters.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rc_push.config import is_loopback
from rc_push.envelope import iso_from_ms
from rc_push.simulator.answers import Refused, rest_error
from rc_push.simulator.clock import Clock
from rc_push.simulator.faults import (
    Faults,
    WebhookNoToken,
    WebhookReplay,
    WebhookSlowBody,
    WebhookStorm,
    WebhookWrongToken,
)
from rc_push.simulator.knobs import Knobs

if TYPE_CHECKING:
    import aiohttp

# Posts of one subscription under way at the same time. undocumented: our choice.
POSTS_AT_ONCE = 8
STORM_AT_ONCE = 64
# Events by the count wait while so many posts do.
WAITING_MAX = 1000
# A failure alone is none to give up for.
FAILURES_MIN = 3
VERIFICATION, VALIDATION = "Verification-Token", "Validation-Token"
# Source: receiving.md's example.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "UTF-8", "User-Agent": "RingCentral-Webhook/8.3"}
EVENT_HEADERS = HEADERS | {"Content-Type": "application/json; charset=UTF-8"}
SLOW_PIECES = 10


@dataclass(frozen=True, slots=True)
class Posted:
    """One post and what came of it: *status* is 0 where there was no answer in time, *problem* then says why."""

    uuid: str
    at: str
    took_ms: int
    status: int
    problem: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What an answer was worth: *code* is the errorCode where it was bad (SUB-520 …), *problem* for people."""

    status: int = 0
    code: str = ""
    problem: str = ""


class Sender:
    """Posts for the whole world, over connections that are kept."""

    def __init__(self, clock: Clock, knobs: Knobs, faults: Faults) -> None:
        self.clock = clock
        self.knobs = knobs
        self.faults = faults
        self._session: aiohttp.ClientSession | None = None

    async def post(self, address: str, headers: dict[str, str], body: Any = b"", *, validation: str = "") -> _Verdict:
        """Post *body*; say what the answer was worth. With *validation*, the same token has to come back."""
        import aiohttp  # noqa: PLC0415 - a simulator without webhooks does not pay for it

        try:
            async with (
                asyncio.timeout(self.knobs.webhook_answer_s),
                self._open().post(
                    address, data=body, headers=headers, allow_redirects=False, ssl=self._tls(address)
                ) as answer,
            ):
                content = await answer.content.read(self.knobs.webhook_answer_bytes + 1)
                return self._judge(answer, len(content), validation)
        except TimeoutError:
            return _Verdict(code="SUB-521", problem="I/O operation is failed. Details: [Read timed out]")
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            return _Verdict(code="SUB-524", problem="HTTPS certificate is not valid")
        except (aiohttp.ClientError, OSError) as exc:
            return _Verdict(code="SUB-521", problem=f"I/O operation is failed. Details: [{type(exc).__name__}]")

    async def close(self) -> None:
        """Let go of the connections."""
        session, self._session = self._session, None
        if session:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415 - as above

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    def _tls(self, address: str) -> ssl.SSLContext | bool:
        if not address.startswith("https:") or not self.knobs.webhook_ca_file:
            return True
        context = ssl.create_default_context(cafile=self.knobs.webhook_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _judge(self, answer: aiohttp.ClientResponse, content_bytes: int, validation: str) -> _Verdict:
        status, headers = answer.status, answer.headers
        if status != 200:  # noqa: PLR2004 - nothing else is good
            problem = f"WebHook responds with incorrect HTTP status. HTTP status is {status}"
            return _Verdict(status, "SUB-522", problem)
        if validation and headers.get(VALIDATION) != validation:
            return _Verdict(status, "SUB-520", "Validation Token is not returned")
        size = sum(len(name) + len(value) + 4 for name, value in answer.raw_headers) + len("HTTP/1.1 200 OK\r\n\r\n")
        if size + content_bytes > self.knobs.webhook_answer_bytes or answer.content_type != "application/json":
            return _Verdict(status, "SUB-525", "WebHook server response is invalid")
        return _Verdict(status)


@dataclass(slots=True, eq=False)
class Webhook:
    """Where the notifications of one subscription are posted to. *ended_at_ms* is when RingCentral gave up."""

    sender: Sender
    address: str
    token: str
    # A notification that a `reorder` fault holds back: payload and uuid.
    held: tuple[bytes, str] | None = None
    posted: list[Posted] = field(default_factory=list)
    ended_at_ms: int | None = None
    reason: str = ""
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    _queue: deque[tuple[bytes, str]] = field(default_factory=deque)
    _workers: set[asyncio.Task[None]] = field(default_factory=set)
    _again: asyncio.Task[None] | None = None
    _failures: int = 0
    _failing_since: float = math.inf

    def mode(self) -> dict[str, Any]:
        """Return it as RingCentral tells it."""
        return {"transportType": "WebHook", "encryption": False, "address": self.address}

    def status(self) -> dict[str, Any]:
        """Return what RingCentral tells of its state."""
        if self.ended_at_ms is None:
            return {"status": "Active"}
        data = {"blacklistedAt": iso_from_ms(self.ended_at_ms), "reason": self.reason}
        return {"status": self.sender.knobs.webhook_ended_status, "blacklistedData": data}

    def to_dict(self, *, with_events: bool) -> dict[str, Any]:
        """Return what the simulator's state tells."""
        posts = [{name: getattr(post, name) for name in Posted.__slots__} for post in self.posted]
        told = {"address": self.address, "waiting": len(self._queue), **self.status()}
        return told | ({"posts": posts} if with_events else {})

    async def validate(self) -> None:
        """Look whether somebody is there. Raises Refused (SUB-520 to 525)."""
        parts = urlsplit(self.address)
        is_exempt = self.sender.knobs.webhook_https == "not-loopback" and is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not is_exempt:
            raise rest_error(400, "SUB-523", "HTTPS is required")
        validation = str(uuid.uuid4())
        headers = HEADERS | {VALIDATION: validation} | ({VERIFICATION: self.token} if self.token else {})
        verdict = await self.sender.post(self.address, headers, validation=validation)
        if verdict.code:
            message = "WebHook is not reachable" if verdict.code == "SUB-521" else verdict.problem
            raise rest_error(400, verdict.code, message)

    def publish(self, payload: bytes, uuid_: str) -> None:
        """Have *payload* posted; on its way at the next `flush`."""
        self._queue.append((payload, uuid_))

    def flush(self) -> None:
        """Let posts go out."""
        for _ in range(min(POSTS_AT_ONCE - len(self._workers), len(self._queue))):
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def wait_room(self) -> int:
        """Wait until few posts wait; return how many more may."""
        while len(self._queue) >= WAITING_MAX:
            self.drained.clear()
            await self.drained.wait()
        return WAITING_MAX - len(self._queue)

    def stop(self) -> None:
        """Post nothing any more."""
        self._queue.clear()
        for task in (*self._workers, *([self._again] if self._again else [])):
            task.cancel()
        self.drained.set()

    async def _work(self) -> None:
        while self._queue:
            payload, uuid_ = self._queue.popleft()
            if len(self._queue) < WAITING_MAX:
                self.drained.set()
            await self._deliver(payload, uuid_)

    async def _deliver(self, payload: bytes, uuid_: str) -> None:
        """Post one notification, again where the knob says so."""
        faults, knobs = self.sender.faults, self.sender.knobs
        storm = faults.take(WebhookStorm)
        if storm:
            gate = asyncio.Semaphore(STORM_AT_ONCE)
            await asyncio.gather(*(self._post_through(gate, payload, uuid_) for _ in range(storm.count)))
        if faults.take(WebhookReplay):
            await self._post(payload, uuid_)
        for attempt in range(knobs.webhook_retries + 1):
            if attempt:
                await asyncio.sleep(self.sender.clock.scaled_s(knobs.webhook_retry_s))
            if self.ended_at_ms is not None or await self._post(payload, uuid_):
                return

    async def _post_through(self, gate: asyncio.Semaphore, payload: bytes, uuid_: str) -> None:
        async with gate:
            await self._post(payload, uuid_)

    async def _post(self, payload: bytes, uuid_: str) -> bool:
        """Post once, as the faults say; record it; say whether it went well."""
        clock = self.sender.clock
        slow = self.sender.faults.take(WebhookSlowBody)
        at, began = clock.iso(), clock.now()
        body = _slowly(payload, slow.delay_s) if slow else payload
        verdict = await self.sender.post(self.address, EVENT_HEADERS | self._token_headers(), body)
        took_ms = round(1000 * (clock.now() - began))
        self.posted.append(Posted(uuid_, at, took_ms, verdict.status, verdict.problem))
        self._note(verdict)
        return not verdict.code

    def _token_headers(self) -> dict[str, str]:
        """Return the token, in the spellings that are documented; the faults change it."""
        faults, spelling = self.sender.faults, self.sender.knobs.webhook_token_header
        token = secrets.token_urlsafe(24) if faults.take(WebhookWrongToken) else self.token
        if not self.token or faults.take(WebhookNoToken):
            return {}
        names = {"verification": (VERIFICATION,), "validation": (VALIDATION,), "both": (VERIFICATION, VALIDATION)}
        return dict.fromkeys(names[spelling], token)

    def _note(self, verdict: _Verdict) -> None:
        """Give up where it has gone wrong for too long."""
        clock, knobs = self.sender.clock, self.sender.knobs
        if not verdict.code:
            self._failures, self._failing_since = 0, math.inf
            return
        self._failures += 1
        self._failing_since = min(self._failing_since, clock.now())
        is_long = clock.now() - self._failing_since >= clock.scaled_s(knobs.webhook_blacklist_s)
        if self.ended_at_ms is None and is_long and self._failures >= FAILURES_MIN:
            self.end(verdict.problem)

    def end(self, reason: str) -> None:
        """Give up."""
        self.ended_at_ms, self.reason = self.sender.clock.wall_ms(), reason
        self._queue.clear()
        self.drained.set()
        if self.sender.knobs.webhook_reactivate_s:
            self._again = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        """Go on where somebody answers after all."""
        while self.ended_at_ms is not None:
            await asyncio.sleep(self.sender.clock.scaled_s(self.sender.knobs.webhook_reactivate_s))
            try:
                await self.validate()
            except Refused:
                continue
            self.ended_at_ms, self.reason = None, ""
            self._failures, self._failing_since = 0, math.inf


async def _slowly(payload: bytes, delay_s: float) -> AsyncIterator[bytes]:
    """Yield *payload* in pieces over *delay_s*."""
    size = -(-len(payload) // SLOW_PIECES)
    for begin in range(0, len(payload), size):
        yield payload[begin : begin + size]
        await asyncio.sleep(delay_s / SLOW_PIECES)
