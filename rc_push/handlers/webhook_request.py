"""What does a webhook receiver get? The headers and the body of a request, as RingCentral's webhooks have them.

Knows envelopes and RingCentral's headers; knows nothing of HTTP clients, clocks or answers.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from rc_push.config import Secret
from rc_push.envelope import Envelope
from rc_push.handlers import cloudevent
from rc_push.handlers.webhook_signature import signed_headers

Format = Literal["ringcentral", "cloudevents"]
Mode = Literal["structured", "binary"]
# RingCentral's pages spell the header in both ways (webhooks, "Validating"; "Receiving").
VerificationHeader = Literal["Verification-Token", "Validation-Token", "both"]

# Source: the sample of a request in RingCentral's guide to receiving webhooks. Their `accept-encoding` is no encoding;
# a receiver that takes it sees no difference, and one that compresses has no reason to.
RINGCENTRAL_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "UTF-8",
    "Content-Type": "application/json; charset=UTF-8",
    "User-Agent": "RingCentral-Webhook/8.3",
}
VALIDATION_TOKEN = "Validation-Token"  # noqa: S105 - the header's name
VERIFICATION_TOKEN = "Verification-Token"  # noqa: S105 - the header's name
# What needs no thought in any header, log or signature.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Form:
    """How requests look. *signing_key* is the key itself, not its text."""

    format: Format = "ringcentral"
    mode: Mode = "structured"
    has_meta: bool = False
    verification_token: Secret | None = None
    verification_header: VerificationHeader = "Verification-Token"
    signing_key: bytes | None = field(default=None, repr=False)


def request_from(envelope: Envelope, form: Form, now_s: float) -> tuple[dict[str, str], bytes]:
    """Return headers and body for *envelope*; *now_s* is the time of this attempt, since 1970.

    No text of the event gets into a header as it is: a line end in one would begin another header.
    """
    headers, body = _content(envelope, form)
    headers |= _verification(form)
    if form.signing_key is not None:
        headers |= signed_headers(form.signing_key, message_id(envelope), now_s, body)
    return headers, body


def validation_headers(token: str, form: Form) -> dict[str, str]:
    """Return the headers of the request that asks a receiver to echo *token*; it has no body.

    `Validation-Token` is the token to echo here, so a verification token has its own name, whatever the events have.
    """
    headers = {**RINGCENTRAL_HEADERS, VALIDATION_TOKEN: token}
    if form.verification_token is not None:
        headers[VERIFICATION_TOKEN] = form.verification_token.reveal()
    return headers


def message_id(envelope: Envelope) -> str:
    """Return what names the event for a receiver, at each attempt: its uuid, or the hash of an odd one."""
    uuid = envelope.uuid
    return uuid if _PLAIN_ID.fullmatch(uuid) else hashlib.sha256(uuid.encode()).hexdigest()


def _content(envelope: Envelope, form: Form) -> tuple[dict[str, str], bytes]:
    if form.format == "ringcentral":
        return {**RINGCENTRAL_HEADERS}, envelope.to_json() if form.has_meta else envelope.payload
    if form.mode == "structured":
        content_type = f"{cloudevent.CONTENT_TYPE}; charset=UTF-8"
        return {**RINGCENTRAL_HEADERS, "Content-Type": content_type}, cloudevent.structured(
            envelope, meta=form.has_meta
        )
    attributes, body = cloudevent.binary(envelope, meta=form.has_meta)
    headers = {name: value for name, value in RINGCENTRAL_HEADERS.items() if name != "Content-Type"}
    return headers | attributes, body


def _verification(form: Form) -> dict[str, str]:
    if form.verification_token is None:
        return {}
    both = (VERIFICATION_TOKEN, VALIDATION_TOKEN)
    names = both if form.verification_header == "both" else (form.verification_header,)
    return dict.fromkeys(names, form.verification_token.reveal())
