"""How does a receiver know that a request is ours? The headers of Standard Webhooks, symmetric keys, version 1.

    webhook-id         names the event, the same at each attempt
    webhook-timestamp  seconds since 1970, of this attempt
    webhook-signature  "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body"

Source: the Standard Webhooks specification. Knows bytes and keys; knows nothing of events, HTTP clients or clocks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

KEY_PREFIX = "whsec_"
# In bytes, decoded. Source: the specification, "Signature scheme".
KEY_LENGTHS = range(24, 65)
KEY_REMEDY = f'make one: echo "{KEY_PREFIX}$(openssl rand -base64 32)"'


def key_from(text: str) -> bytes:
    """Return the key that *text*, `whsec_` and base64, stands for. Raises ValueError, which does not show it."""
    try:
        key = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(KEY_PREFIX) or len(key) not in KEY_LENGTHS:
        raise ValueError(f"no {KEY_PREFIX} and base64 of {KEY_LENGTHS[0]} to {KEY_LENGTHS[-1]} bytes; {KEY_REMEDY}")
    return key


def signed_headers(key: bytes, id_: str, now_s: float, body: bytes) -> dict[str, str]:
    """Return the headers for *body*. *id_* must be fit for a header and hold no full stop; *now_s* is since 1970."""
    timestamp = str(int(now_s))
    mac = hmac.new(key, f"{id_}.{timestamp}.".encode(), hashlib.sha256)
    mac.update(body)
    signature = base64.b64encode(mac.digest()).decode()
    return {"webhook-id": id_, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}
