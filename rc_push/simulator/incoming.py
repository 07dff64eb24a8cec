"""How do others post into a team? RingCentral's *incoming* webhooks: a URL that makes a post of what it gets.

Who knows the URL may post: it is the credential. Here, any id is one.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rc_push.simulator import rest
from rc_push.simulator.answers import Answer, Refused
from rc_push.simulator.emitter import Emitter, Event
from rc_push.simulator.people import INTEGRATION_ID
from rc_push.simulator.samples import sample
from rc_push.simulator.state import CallRecord, World

# Source: RingCentral's guide to incoming webhooks. Both versions are in use.
PATHS = ("/webhook/v2/{webhookId}", "/webhook/{webhookId}")
# Source: `TMCreatePostRequest` in RingCentral's OpenAPI file.
TEXT_MAX_LENGTH = 10_000
# Posts that are emitted otherwise have ids below.
FIRST_NUMBER = 1_000_000


class Message(msgspec.Struct):
    """What is posted. Whatever else there is means nothing here."""

    text: Annotated[str, msgspec.Meta(max_length=TEXT_MAX_LENGTH)] | None = None
    attachments: list[Any] | None = None
    activity: str | None = None
    icon: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for one that says nothing."""
        if not (self.text and self.text.strip()) and not self.attachments:
            raise ValueError("neither text nor attachments")


class IncomingWebhooks:
    """What the URLs answer. A post becomes an event, for whoever has subscribed to posts."""

    def __init__(self, world: World, emitter: Emitter) -> None:
        self._world = world
        self._emitter = emitter
        self._numbers = itertools.count(FIRST_NUMBER)

    def routes(self) -> list[Route]:
        """Return the HTTP side."""
        return [Route(path, self.post, methods=["POST"]) for path in PATHS]

    async def post(self, request: Request) -> Response:
        """Post what came: `{"text": "…"}`, with `attachments`, `activity`, `icon` and `title` where wanted."""
        body, path = await request.body(), request.url.path
        if delay := rest.delay_at(self._world, path):
            await rest.wait(self._world, delay)
        try:
            self._world.faults.refuse(path)
            said = self._answer(body)
        except Refused as refused:
            said = refused.answer
        endpoint = PATHS[0] if path.startswith("/webhook/v2/") else PATHS[1]
        record = CallRecord(self._world.clock.iso(), said.status, "", "https")
        self._world.calls.setdefault(f"POST {endpoint}", []).append(record)
        return Response(said.content(), said.status, said.headers, "application/json")

    def _answer(self, body: bytes) -> Answer:
        try:
            message = msgspec.json.decode(body, type=Message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:  # ValidationError is a DecodeError
            return Answer(400, {"status": "error", "message": str(exc)})  # undocumented
        self._emitter.emit([self._event(message)])
        return Answer(200, {"status": "OK"})  # undocumented: seen by those who post

    def _event(self, message: Message) -> Event:
        uri, body = sample("post.added", next(self._numbers))
        said = {name: getattr(message, name) for name in ("text", "attachments", "activity", "title")}
        return Event(uri, body | said | {"iconUri": message.icon, "creatorId": INTEGRATION_ID})
