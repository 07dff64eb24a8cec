"""What does one gateway frame say? Knows the JSON of a frame, and how to read a bad one; knows nothing of sessions.

A frame is a JSON array, ``[meta]`` or ``[meta, body]`` (protocol.md 4.3):

    [{"type":"ServerNotification","messageId":"6452…","status":200,"headers":{"RCRequestId":"…"},
      "wsc":{"token":"RTFh…","sequence":2}},
     {"uuid":"6452…","event":"/team-messaging/v1/posts","body":{…}}]
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

# A binary answer is no JSON: the text goes on with a MIME part instead of a body (seen in @rc-ex/ws, RingCentral.Net).
MULTIPART_MARK = ",--Boundary"

STATUS_DIGITS = 3
ARRAY = ord("[")
# What JSON has between its parts (RFC 8259).
BLANKS = " \t\r\n"

T = TypeVar("T")

CONNECTION_DETAILS = "ConnectionDetails"
CLIENT_REQUEST = "ClientRequest"
SERVER_NOTIFICATION = "ServerNotification"
HEARTBEAT = "Heartbeat"
ERROR = "Error"


class Wsc(msgspec.Struct, frozen=True):
    """The session's recovery token. *sequence* counts issued tokens, not events."""

    token: str
    sequence: int = 0

    def __repr__(self) -> str:
        """Hide the token: whoever holds it can take the session over."""
        return f"Wsc(sequence={self.sequence})"


class Meta(msgspec.Struct):
    """The first element of a frame. Only *type* is always there."""

    type: str
    messageId: str = ""  # noqa: N815 - RingCentral's spelling
    status: int = 0
    wsc: Wsc | None = None
    method: str = ""
    path: str = ""
    query: Any = None
    headers: msgspec.Raw = msgspec.Raw(b"")


class Frame(msgspec.Struct, array_like=True):
    """One frame, its body left as the bytes that came; ``b""`` where there is none."""

    meta: Meta
    body: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that could not be understood, whole, with the reason."""

    raw: bytes
    reason: str


_decode_fast = msgspec.json.Decoder(Frame).decode
_decode_meta = msgspec.json.Decoder(Meta).decode


def decode(data: bytes) -> Frame | BadFrame:
    """Return the frame in *data*; raise nothing.

    The typed decoder serves nearly all. What it refuses goes to the lenient one (numeric ids, lone surrogates,
    a multipart answer); what that refuses too is a BadFrame.
    """
    try:
        frame = _decode_fast(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(data)
    try:
        str(frame.body, "utf-8")  # Raw parts are not validated by msgspec
    except UnicodeDecodeError as exc:
        return BadFrame(data, f"not UTF-8: {exc.reason} at byte {exc.start}")
    return frame


def notification_in(data: bytes) -> bytes | None:
    """Return what follows the meta element where *data* begins as a plain notification does; None: ask `decode`.

    The body, nearly always; but it is not looked at, so that the whole frame is read only once. Where it turns out not
    to be an event, `decode` says what it is.
    """
    end = data.find(b"},{") + 1  # inside the meta element, what comes before it is no whole object
    if not end or not data.endswith(b"}]"):
        return None
    try:
        meta = _decode_meta(data[1:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if meta.type != SERVER_NOTIFICATION or meta.wsc is not None or data[0] != ARRAY:
        return None
    return data[end + 1 : -1]


def decode_tolerantly(data: bytes, type_: type[T]) -> T:
    """Return the JSON object *data* as *type_*, whose defaults stand in for what is null, missing or does not fit.

    Numbers may be text, and texts numbers. Raises ValueError (msgspec's are), RecursionError.
    """
    # A number that is left as text is taken where a number is expected, too.
    raw = json.loads(data, parse_int=str, parse_float=str)
    return cast("T", _fitted(raw, type_))


def _fitted(raw: Any, type_: Any) -> Any:
    """Return *raw* as *type_*, without the items and fields in it that do not fit. Raises msgspec.ValidationError."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "backslashreplace").decode()  # half an emoji could not be stored
    elif isinstance(raw, list) and get_origin(type_) is list:
        fits = [_fitted_or_none(item, *get_args(type_)) for item in raw]
        raw = [fit for fit in fits if fit is not None]
    elif isinstance(raw, dict) and isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        fields = msgspec.structs.fields(type_)
        found = {field.encode_name: _fitted_or_none(raw.get(field.encode_name), field.type) for field in fields}
        raw = {name: fit for name, fit in found.items() if fit is not None}
    fitted = msgspec.convert(raw, type_, strict=False)
    if isinstance(fitted, float) and not math.isfinite(fitted):
        raise msgspec.ValidationError("not a finite number")  # "NaN" and "inf" can stand in a text, too
    return fitted


def _fitted_or_none(raw: Any, type_: Any) -> Any:
    try:
        return _fitted(raw, type_)
    except msgspec.ValidationError:
        return None


def encode(meta: dict[str, Any], body: bytes | None = None) -> bytes:
    """Return the frame ``[meta]``, or ``[meta, body]`` where *body* is JSON text already."""
    head = msgspec.json.encode(meta)
    return b"[" + head + b"]" if body is None else b"[" + head + b"," + body + b"]"


def _decode_leniently(data: bytes) -> Frame | BadFrame:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        return BadFrame(data, f"not UTF-8: {exc.reason} at byte {exc.start}")
    head, mark, tail = text.partition(MULTIPART_MARK)
    try:
        value = json.loads(head + "]" if mark else text)
    except RecursionError:
        return BadFrame(data, "nested too deeply")
    except ValueError as exc:
        return BadFrame(data, f"not JSON: {str(exc)[:100]}")
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return BadFrame(data, "not an array that begins with an object")
    meta = _meta_from_dict(value[0])
    if not meta.type:
        return BadFrame(data, "no type")
    if mark:
        return Frame(meta, msgspec.Raw((mark[1:] + tail).encode()))
    return Frame(meta, msgspec.Raw(_second_in(text).encode() if len(value) > 1 else b""))


def _second_in(text: str) -> str:
    """Return the second element of the array *text*, which is known to begin with an object, as it stands there.

    Written anew, long numbers would be rounded and repeated keys be gone.
    """
    scan = json.JSONDecoder().raw_decode
    _, end = scan(text, text.index("{"))
    rest = text[end:].lstrip(BLANKS).removeprefix(",").lstrip(BLANKS)
    _, end = scan(rest)
    return rest[:end]


def _meta_from_dict(raw: dict[str, Any]) -> Meta:
    kind, message_id, status, wsc = raw.get("type"), raw.get("messageId"), raw.get("status"), raw.get("wsc")
    return Meta(
        type=kind if isinstance(kind, str) else "",
        messageId=str(message_id) if isinstance(message_id, str | int) else "",
        status=_status_from(status),
        wsc=_wsc_from(wsc) if isinstance(wsc, dict) else None,
        method=str(raw.get("method") or ""),
        path=str(raw.get("path") or ""),
        query=raw.get("query"),
    )


def _status_from(raw: Any) -> int:
    """Return an HTTP status, which some servers write as text; 0 where it is none."""
    is_text = isinstance(raw, str) and len(raw) == STATUS_DIGITS and raw.isascii() and raw.isdecimal()
    return int(raw) if is_text or (isinstance(raw, int) and 0 <= raw < 10**STATUS_DIGITS) else 0


def _wsc_from(raw: dict[str, Any]) -> Wsc | None:
    token, sequence = raw.get("token"), raw.get("sequence")
    if not isinstance(token, str) or not token or token != without_surrogates(token):
        return None
    return Wsc(token, sequence if isinstance(sequence, int) else 0)


def without_surrogates(text: str) -> str:
    """Return *text* without the lone surrogates that JSON can bring and UTF-8 cannot take back."""
    return text.encode("utf-8", "replace").decode()
