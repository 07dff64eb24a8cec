"""How does a notification get into a PubNub channel? The delivery mode of one subscription, and its encryption.

Knows keys, and ciphertexts that are none; knows nothing of polls.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from rc_push.simulator.channels import Channel, Channels
from rc_push.simulator.faults import PubNubKind, Rotated

KEY_BYTES = 16
BLOCK_BYTES = 16

Cipher = Callable[[bytes], bytes]


class Delivery:
    """Where the notifications of one subscription go, encrypted where it has a key."""

    def __init__(self, channels: Channels, subscriber_key: str, *, is_encrypted: bool) -> None:
        # What a `reorder` fault holds back: payload and uuid.
        self.held: tuple[bytes, str] | None = None
        self._key = b""
        self._cipher: Cipher | None = None
        self._channels = channels
        self._channel = _new_channel(channels, subscriber_key)
        if is_encrypted:
            self.encrypt()

    def encrypt(self) -> None:
        """Encrypt from now on."""
        if self._cipher is None:
            self._set_key()

    def rotate(self, what: Rotated) -> None:
        """Change *what* from now on. What is in a channel stays there."""
        subscriber_key = self._channel.subscriber_key
        match what:
            case "channel":
                self._channel = _new_channel(self._channels, subscriber_key)
            case "subscriberKey":
                self._channel = self._channels.channel(new_subscriber_key(), self._channel.name)
            case "encryptionKey" if self._cipher:
                self._set_key()

    def mode(self) -> dict[str, Any]:
        """Return it as RingCentral tells it."""
        mode: dict[str, Any] = {
            "transportType": "PubNub",
            "encryption": self._cipher is not None,
            "address": self._channel.name,
            "subscriberKey": self._channel.subscriber_key,
        }
        if self._cipher:
            mode |= {"encryptionAlgorithm": "AES", "encryptionKey": base64.b64encode(self._key).decode()}
        return mode

    def publish(self, payload: bytes) -> None:
        """Publish the JSON object *payload*; seen at the next `flush`."""
        data = b'"' + base64.b64encode(self._cipher(_padded(payload))) + b'"' if self._cipher else payload
        self._channels.publish(self._channel, data)

    def inject(self, kind: PubNubKind) -> None:
        """Publish garbage of *kind*."""
        self._channels.publish(self._channel, _garbage(kind, self._cipher))

    def flush(self) -> None:
        """Let the polls see what was published."""
        self._channel.wake()

    async def wait_room(self) -> int | None:
        """See `Channels.wait_room`."""
        return await self._channels.wait_room(self._channel)

    def _set_key(self) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)
        self._cipher = _cipher_from(self._key)


def new_subscriber_key() -> str:
    """Return a subscriber key that was never there."""
    return f"sub-c-{uuid.uuid4()}"


def _new_channel(channels: Channels, subscriber_key: str) -> Channel:
    digits = 10**14 + secrets.randbelow(9 * 10**14)
    return channels.channel(subscriber_key, f"{digits}_{secrets.token_hex(4)}")


def _cipher_from(key: bytes) -> Cipher:
    from Crypto.Cipher import AES  # noqa: PLC0415 - only where PubNub is used

    return AES.new(key, AES.MODE_ECB).encrypt


def _padded(data: bytes) -> bytes:
    """Return *data* with PKCS#7 padding."""
    missing = BLOCK_BYTES - len(data) % BLOCK_BYTES
    return data + bytes((missing,)) * missing


def _garbage(kind: PubNubKind, cipher: Cipher | None) -> bytes:
    """Return data, JSON, that is no notification."""

    def text_from(plain: bytes) -> str:
        return base64.b64encode(cipher(plain) if cipher else plain).decode()

    match kind:
        case "padding":
            data: Any = text_from(bytes(BLOCK_BYTES))
        case "base64":
            data = text_from(bytes(BLOCK_BYTES))[:-3]
        case "blocks":
            data = text_from(bytes(BLOCK_BYTES))[:-4]
        case "text":
            data = text_from(_padded(b"not JSON"))
        case "object":
            data = text_from(_padded(b'{"hello":"world"}')) if cipher else {"hello": "world"}
        case "number":
            data = 7
    return msgspec.json.encode(data)
