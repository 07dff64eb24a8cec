"""The handler that posts a message into a team, through a RingCentral *incoming* webhook.

The other direction of RingCentral's: who knows the URL may post, so all of it is a secret. What is posted comes back as
an event where one has subscribed to the team's posts; such an event is never answered.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Self
from urllib.parse import urlsplit

import msgspec
import structlog
from msgspec import Meta, Struct

from rc_push import __version__
from rc_push.config import Secret, is_loopback
from rc_push.envelope import Envelope
from rc_push.errors import Failed, Reject, Retry, UnreachableError
from rc_push.handlers.own_posts import MARK, OwnPosts
from rc_push.handlers.pace import Pace
from rc_push.handlers.tls import TlsFiles
from rc_push.handlers.webhook_answer import Answer, judge, told
from rc_push.handlers.webhook_client import WebhookClient, wrong_in_url
from rc_push.templates import Template

log = structlog.get_logger()

# Source: `TMCreatePostRequest` in RingCentral's OpenAPI file, "symbols". An emoji may count as two there.
TEXT_MAX_LENGTH = 10_000
CONNECT_TIMEOUT_S = 10.0
# After a 429 that does not say for how long. Source: RingCentral's rate limit guide, the penalty of a group.
SILENCE_S = 60.0
HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": f"rc-push/{__version__}"}
URL_REMEDY = "copy all of it from the settings of the team's incoming webhook"
JOINER = "\u2060"
# Shorter parts of a URL are no secrets, and could stand in any text.
SECRET_MIN_LENGTH = 8


class TeamPostSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `team_post` handler."""

    url: Annotated[Secret, Meta(description="the URL of the team's incoming webhook, a secret")]
    text: Annotated[Template, Meta(description="what the message says; a template")]
    per_minute: Annotated[int, Meta(description="messages within any minute, 1 to 600", ge=1, le=600)] = 20

    def __post_init__(self) -> None:
        """Raise ValueError, with the remedy, for what its type does not tell."""
        url = self.url.reveal()
        if wrong := wrong_in_url(url):
            raise ValueError(f"url {wrong}; {URL_REMEDY}")
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError(f"url does not begin with https://, and is a secret; {URL_REMEDY}")


class TeamPostHandler:
    """Posts one message for each event. What fails may have been posted before it failed: at least once."""

    Settings = TeamPostSettings

    def __init__(self, settings: TeamPostSettings) -> None:
        url = settings.url.reveal()
        self._text = settings.text
        self._per_minute = settings.per_minute
        self._secrets = _secrets_in(url)
        self._client = WebhookClient(url, connect_timeout_s=CONNECT_TIMEOUT_S, tls=TlsFiles())
        self._pace = Pace(settings.per_minute)
        self._own = OwnPosts()

    async def __aenter__(self) -> Self:
        """Open the pool; connections come with the first message."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    async def handle(self, envelope: Envelope) -> None:
        """Post the message for *envelope*, unless it is one of ours. Raises Retry, Failed or Reject."""
        if self._own.include(envelope):
            log.info("own_post", position=envelope.position, subscription=envelope.subscription)
            return
        text = text_for(envelope, self._text)
        if not text.strip():
            raise Reject("the template gives no text for this event; leave such events out by where")
        self._wait_turn()
        self._own.remember(text, envelope)  # before it can come back
        try:
            answer = await self._client.post(HEADERS, msgspec.json.encode({"text": text + MARK}))
        except UnreachableError as exc:  # told in full: no traceback
            raise Failed(exc) from None
        judge_post(answer, self._secrets, time.time())

    def _wait_turn(self) -> None:
        """Raise Retry where a minute has had its messages."""
        wait_s = self._pace.take(time.monotonic())
        if wait_s:
            raise Retry(wait_s, for_all=True) from Failed(f"per_minute: {self._per_minute} were sent within a minute")


def text_for(envelope: Envelope, template: Template) -> str:
    """Return what *template* says of *envelope*, not longer than RingCentral takes it together with the mark."""
    text = template.render(envelope, escape=_harmless)
    units = text.encode("utf-16-le")
    room = TEXT_MAX_LENGTH - len(MARK)
    return text if len(units) <= 2 * room else units[: 2 * (room - 1)].decode("utf-16-le", errors="ignore") + "…"


def judge_post(answer: Answer, secrets: list[Secret], now_s: float) -> None:
    """Return where the message is posted. Raises what `judge` raises; a 429 is always Retry, and so asks for all."""
    try:
        judge(answer, secrets, now_s)
    except Failed as failure:
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise Retry(SILENCE_S, for_all=True) from failure
        raise
    if _says_no(answer.beginning):
        raise Failed(f"{answer}, but not that it has posted", detail=told(answer.beginning, secrets))


def _says_no(body: bytes) -> bool:
    """Say whether *body* denies what the status says.

    {"status":"OK"} is how a message is confirmed. undocumented: seen by those who post. So what does not speak of a
    status is taken for a yes: each further attempt would post the message once more.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    status = said.get("status") if isinstance(said, dict) else None
    return isinstance(status, str) and status.lower() != "ok"


def _harmless(value: str) -> str:
    """Return *value* so that it mentions nobody: `![:Person](id)` and `![:Team](id)` call people up.

    Whoever can send an event, by SMS for example, could call a whole team. A word joiner, of no width, stops it, also
    where the mention would be made of *value* and what stands beside it.
    """
    before = JOINER if value.startswith(":") else ""
    after = JOINER if value.endswith("[") else ""
    return before + value.replace("[:", f"[{JOINER}:") + after


def _secrets_in(url: str) -> list[Secret]:
    """Return what an answer must not show: *url*, its path, and the last part of it; the longest first."""
    rest = url.split("/", 3)[3:]
    parts = [url, *(f"/{part}" for part in rest), *(part.rpartition("/")[2] for part in rest)]
    return [Secret(part) for part in parts if len(part) >= SECRET_MIN_LENGTH]
