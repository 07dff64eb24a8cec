"""What is in a PubNub message? An envelope, encrypted or not, or something that nobody can read.

Knows keys and envelopes; knows nothing of channels or of where keys come from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from rc_push.envelope import Envelope, Source, Unreadable
from rc_push.payload import envelope_from_payload
from rc_push.protocol.crypto import DecryptError, Decryptor
from rc_push.protocol.pubnub import Message


class Opener:
    """Opens messages with the keys that are known, newest first."""

    def __init__(self, source: Source, keys: Sequence[str]) -> None:
        self._source = source
        self._decryptor = Decryptor(*keys) if keys else None

    def open(self, messages: Sequence[Message], at_ms: int) -> tuple[list[Envelope], list[Unreadable], bool]:
        """Return what is in *messages*, and whether a key that we do not know could open more of them."""
        envelopes: list[Envelope] = []
        unreadables: list[Unreadable] = []
        is_closed = False
        for message in messages:
            try:
                record = envelope_from_payload(self._payload_from(message.data), self._source, at_ms)
            except DecryptError as exc:
                record = Unreadable.of(_raw_from(message.data), str(exc), self._source, at_ms)
                is_closed = True
            except RecursionError:  # read from a shallower stack than this
                record = Unreadable.of(b"", "nested too deeply", self._source, at_ms)
            if isinstance(record, Unreadable):
                unreadables.append(record)
            else:
                envelopes.append(record)
        return envelopes, unreadables, is_closed

    def _payload_from(self, data: Any) -> bytes:
        if isinstance(data, dict):
            return _json_of(data)
        if not isinstance(data, str):
            raise DecryptError(f"neither text nor an object: {type(data).__name__}")
        if self._decryptor is None:
            raise DecryptError("a text where RingCentral promised no encryption")
        return self._decryptor.decrypt(data)


def _raw_from(data: Any) -> bytes:
    return data.encode(errors="surrogatepass") if isinstance(data, str) else _json_of(data)


def _json_of(data: Any) -> bytes:
    """Return *data*, which was JSON, as JSON again."""
    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:  # half an emoji, which JSON can say and UTF-8 cannot
        return json.dumps(data, separators=(",", ":")).encode()
