"""The handler that POSTs events to a URL, so that a webhook receiver works unchanged behind rc-push."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import structlog
from msgspec import Meta, Struct

from rc_push.config import Secret
from rc_push.envelope import Envelope
from rc_push.errors import Failed, HandlerError, UnreachableError
from rc_push.handlers.reachable import REMEDY, is_forbidden
from rc_push.handlers.tls import TlsFiles
from rc_push.handlers.webhook_answer import judge, judge_validation
from rc_push.handlers.webhook_client import WebhookClient, wrong_in_url
from rc_push.handlers.webhook_request import Form, Format, Mode, VerificationHeader, request_from, validation_headers
from rc_push.handlers.webhook_signature import key_from

log = structlog.get_logger()

# For the answer to the validation request. Source: RingCentral's guide to webhooks.
VALIDATION_WITHIN_S = 3.0
URL_REMEDY = 'write all of it, such as "https://receiver.example.com/webhook"'


class ForwardSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `forward` handler."""

    url: Annotated[str, Meta(description="where events are sent, beginning with https:// or http://")]
    validate: Annotated[
        bool, Meta(description="send no event before the receiver has echoed a Validation-Token, as RingCentral does")
    ] = True
    verification_token: Annotated[
        Secret | None, Meta(description="a secret that each request carries, for the receiver to compare")
    ] = None
    verification_header: Annotated[
        VerificationHeader, Meta(description="its header in events: Verification-Token, Validation-Token or both")
    ] = "Verification-Token"
    signing_key: Annotated[
        Secret | None, Meta(description="sign each event as Standard Webhooks do, with this key: whsec_ and base64")
    ] = None
    format: Annotated[Format, Meta(description="how events look: ringcentral or cloudevents")] = "ringcentral"
    cloudevents_mode: Annotated[
        Mode, Meta(description="structured: all in the body; binary: attributes as headers")
    ] = "structured"
    rc_push_meta: Annotated[bool, Meta(description="add what rc-push knows to RingCentral's six fields")] = False
    allow_link_local: Annotated[bool, Meta(description="call link-local and cloud metadata addresses too")] = False
    connect_timeout_s: Annotated[float, Meta(description="until connected, in seconds, 0.1 to 600", ge=0.1, le=600)] = (
        10.0
    )
    ca_file: Annotated[Path | None, Meta(description="authorities to trust, as PEM, in place of the system's")] = None
    client_certificate: Annotated[Path | None, Meta(description="the certificate to show to the receiver, as PEM")] = (
        None
    )
    client_key: Annotated[
        Path | None, Meta(description="its private key, as PEM; left out where it is in client_certificate")
    ] = None

    def __post_init__(self) -> None:
        """Raise ValueError, with the remedy, for what its type does not tell."""
        if wrong := wrong_in_url(self.url):
            raise ValueError(f"url {wrong}; {URL_REMEDY}")
        if not self.allow_link_local and is_forbidden(urlsplit(self.url).hostname or ""):
            raise ValueError(f"url names a link-local or metadata address; {REMEDY}")
        if self.signing_key is not None:
            try:
                key_from(self.signing_key.reveal())
            except ValueError as exc:
                raise ValueError(f"signing_key is {exc}") from None
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key is given without client_certificate; add the one or leave out the other")
        if self.tls and not self.url.startswith("https:"):
            raise ValueError(
                "files for TLS are given, but url does not begin with https://; change url or leave them out"
            )

    @property
    def tls(self) -> TlsFiles:
        """Return the files for TLS."""
        return TlsFiles(self.ca_file, self.client_certificate, self.client_key)


class ForwardHandler:
    """POSTs each event. Any number of calls may run at the same time; each has a connection of its own."""

    Settings = ForwardSettings

    def __init__(self, settings: ForwardSettings) -> None:
        token, key = settings.verification_token, settings.signing_key
        self._form = Form(
            format=settings.format,
            mode=settings.cloudevents_mode,
            has_meta=settings.rc_push_meta,
            verification_token=token,
            verification_header=settings.verification_header,
            signing_key=key_from(key.reveal()) if key else None,
        )
        self._secrets = [secret for secret in (token, key) if secret]
        self._client = WebhookClient(
            settings.url,
            connect_timeout_s=settings.connect_timeout_s,
            tls=settings.tls,
            allow_link_local=settings.allow_link_local,
        )
        self._must_validate = settings.validate
        self._validating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the pool, and validate. Raises HandlerError where the receiver answers, but not as it has to.

        One that does not answer may come later. To receive must not depend on it: what comes meanwhile waits.
        """
        await self._client.__aenter__()
        try:
            await self._ensure_validated()
        except UnreachableError as exc:
            log.warning("receiver_unreachable", error=str(exc))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._validating:
            self._validating.cancel()
            await asyncio.wait([self._validating])
        await self._client.__aexit__()

    async def check(self) -> str:
        """Validate the receiver, as at the start. Raises HandlerError or UnreachableError."""
        if not self._must_validate:
            return ""
        async with self._client:
            await self._validate()
        return f"{self._client.origin} echoes the Validation-Token"

    async def handle(self, envelope: Envelope) -> None:
        """POST *envelope*. To return means that it was answered with 2xx; raises what `judge` raises."""
        try:
            await self._ensure_validated()
            now_s = time.time()
            answer = await self._client.post(*request_from(envelope, self._form, now_s))
        except (HandlerError, UnreachableError) as exc:  # the receiver's fault, and told in full: no traceback
            raise Failed(exc) from None
        judge(answer, self._secrets, now_s)

    async def _ensure_validated(self) -> None:
        """Validate where that is still due: once for all that wait for it. Raises what `_validate` raises."""
        if not self._must_validate:
            return
        if self._validating is None or self._validating.done():
            self._validating = asyncio.create_task(self._validate())
            self._validating.add_done_callback(_retrieve)
        await asyncio.shield(self._validating)  # who is cut must not cut the others
        self._must_validate = False

    async def _validate(self) -> None:
        """Do what RingCentral does before it sends anything to a webhook.

        Raises UnreachableError where there is no answer, HandlerError where it is a wrong one.
        """
        token = str(uuid.uuid4())
        try:
            async with asyncio.timeout(VALIDATION_WITHIN_S) as limit:
                answer = await self._client.post(validation_headers(token, self._form), b"")
        except TimeoutError:
            if not limit.expired():
                raise
            raise UnreachableError(
                f"{self._client.origin} has not answered the validation request within {VALIDATION_WITHIN_S:g} s",
                phase="timeout",
            ) from None
        judge_validation(answer, token)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take note of a failure, for asyncio: whoever waited for it may have been cut."""
    if not task.cancelled():
        task.exception()
