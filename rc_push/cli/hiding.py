"""How is an event shown to somebody who must not know whom it is about? Without numbers, names and texts.

What is hidden becomes a word that is the same wherever the same value stands, in this output alone: who called twice
can be seen, who it was cannot be found out by trying all numbers. What is shown is what is known to be harmless:
ids, times, and RingCentral's own words.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from typing import Any

import msgspec

from rc_push.envelope import Envelope

# Of a digest, in hex: two values in a million events look the same by accident once in two million runs.
SHOWN_DIGITS = 12
# Keys whose texts RingCentral chooses from a list of its own, or makes up itself.
PLAIN_KEYS = frozenset({
    *("uuid", "event", "timestamp", "eventType", "type", "status", "code", "reason", "direction", "availability"),
    *("readStatus", "messageStatus", "priority", "presenceStatus", "telephonyStatus", "userStatus", "dndStatus"),
    *("creationTime", "lastModifiedTime", "lastUpdated", "eventTime", "startTime", "endTime", "contentType", "uri"),
    *("origin", "transport", "account", "subscription", "receivedAt", "sequence", "position", "newCount"),
    *("updatedCount", "missedCall", "standAlone", "muted", "format", "vmTranscriptionStatus", "faxPageCount"),
})  # fmt: skip
# Ids of RingCentral's; a caller's id is a number of a telephone.
_ID_KEY = re.compile(r"(?!.*(?i:caller|phone|number))(?:id|.*Ids?)")
# Words, ids and times. None of them has a blank or a plus, as texts and numbers have.
_PLAIN = re.compile(r"[A-Za-z0-9_.:~/=&?,@-]{0,200}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)", re.ASCII)
_NUMBER = re.compile(r"\+?[\d\s().-]{5,}", re.ASCII)
# What stands in a URI, and may be a number or a name.
_IN_URI = re.compile(r"(?<==)[^&]*|(?<=/)\+[^/?]*|(?<=phone-number/)[^/?]*")
_WORD = re.compile(r"[A-Za-z~]{0,40}|\d{1,2}", re.ASCII)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,60}", re.ASCII)
# Integers that count something; longer ones may be a telephone's number.
COUNT_MAX = 10_000


class Hiding:
    """One output. The same value is the same word in all of it, and another one in the next."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key

    def envelope(self, envelope: Envelope) -> Envelope:
        """Return *envelope* as it may be shown."""
        try:
            shown = self.value("", envelope.fields)
        except RecursionError:  # stored, but too deep to be looked through
            shown = {"uuid": envelope.uuid, "event": "", "body": self._word("text", envelope.uuid)}
        payload = json.dumps(shown, separators=(",", ":")).encode()
        return msgspec.structs.replace(envelope, payload=payload)

    def value(self, key: str, value: Any) -> Any:
        """Return *value*, which stands under *key*, as it may be shown."""
        if isinstance(value, dict):
            return {self._key_shown(name): self.value(name, inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.value(key, inner) for inner in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(key, value)
        is_plain = key in PLAIN_KEYS or _ID_KEY.fullmatch(key) or (isinstance(value, int) and abs(value) <= COUNT_MAX)
        return value if is_plain else self._word("number", str(value))

    def _text(self, key: str, text: str) -> str:
        if not text or _TIME.fullmatch(text):
            return text
        if key in {"event", "uri"} and _PLAIN.fullmatch(_IN_URI.sub("", text)):
            return _IN_URI.sub(
                lambda part: part[0] if _WORD.fullmatch(part[0]) else self._hidden("text", part[0]), text
            )
        if (key in PLAIN_KEYS or _ID_KEY.fullmatch(key)) and _PLAIN.fullmatch(text):
            return text
        return self._hidden("name" if "name" in key.lower() else "text", text)

    def _hidden(self, kind: str, text: str) -> str:
        if _NUMBER.fullmatch(text):
            return self._word("number", re.sub(r"\D", "", text))  # however it is written
        return self._word(kind, text)

    def _key_shown(self, key: str) -> str:
        return key if _KEY.fullmatch(key) else self._word("key", key)

    def _word(self, kind: str, text: str) -> str:
        digest = hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:SHOWN_DIGITS]}"
