"""What does a search begin with? For each target, what is well-formed: RingCentral's events, the project's own texts.

And what earlier searches have found: files in `findings/TARGET/`, which stay for good.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import trustme
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad

from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.oauth import JWT_BEARER
from rc_push.simulator.samples import SAMPLES, sample

ROOT = Path(__file__).parents[1]
FINDINGS = Path(__file__).parent / "findings"
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
# Larger seeds slow a search down.
SEED_MAX_BYTES = 8192

DETAILS = {
    "type": "ConnectionDetails",
    "messageId": "1",
    "status": 200,
    "wsc": {"token": "RTFh", "sequence": 1},
    "body": {},
}
EXPRESSIONS = (
    "contains(body.text || '', 'urgent')",
    "length(body.parties[?missedCall]) > `0`",
    "rcPush.type == 'post.added' && body.creatorId != '4010001002'",
    "body.parties[*].from.phoneNumber | [0]",
    "sort_by(body.parties, &id)[-1].{a: id, b: status.code}",
    "to_number(body.id) > `1e3` || !not_null(body.x, `null`)",
    "max(map(&length(@), body.mentions[].name)) >= `-1`",
    "join(',', keys(body))",
    "body.text[::-1]",
)
TEMPLATES = (
    "{date} {type} {body.text}",
    "{body.parties[0].from.phoneNumber || 'nobody'}",
    "{{}} {hour}{account}",
    "{@}",
)


def seeds_for(target: str) -> list[bytes]:
    """Return what a search of *target* begins with, findings included."""
    found = sorted((FINDINGS / target).glob("*")) if (FINDINGS / target).is_dir() else []
    made = [seed for seed in _SEEDS[target]() if len(seed) <= SEED_MAX_BYTES]
    return [*made, *(path.read_bytes() for path in found)]


def _payloads() -> Iterator[bytes]:
    for number, type_ in enumerate(SAMPLES):
        event, body = sample(type_)
        told = {
            "uuid": f"64520041090625936{number:02}",
            "event": event,
            "timestamp": "2026-11-23T10:00:00.120Z",
            "subscriptionId": "2db5",
            "ownerId": "233676004",
            "body": body,
        }
        yield json.dumps(told, separators=(",", ":")).encode()
    yield b'{"pn_apns":{"aps":{},"uuid":1,"event":"/x","body":[1e999,-0.0,"\\ud800"]},"rcPush":{}}'
    yield b'{"uuid":"u","event":"/x?y=%2B","body":' + b'{"a":[' * 20 + b"]}" * 20 + b"}"


def _frames() -> Iterator[bytes]:
    for payload in _payloads():
        meta = {"type": "ServerNotification", "messageId": "6452", "status": 200, "headers": {"RCRequestId": "1"}}
        yield json.dumps([meta]).encode()[:-1] + b"," + payload + b"]"
    yield from GARBAGE.values()
    yield json.dumps([DETAILS, {"recoveryState": "Successful", "recoveryBufferSize": 100}]).encode()
    yield b'[{"type":"Heartbeat","messageId":"id-2"}]'
    yield b'[{"type":"ClientRequest","messageId":"id-1","status":200},{"id":"x"}]'
    yield b'[{"type":"ClientRequest","messageId":"9","method":"POST","path":"/restapi/v1.0/subscription"},{}]'
    yield b'[{"type":"Error","messageId":"1","status":400},{"errorCode":"WSG-901","message":"no"}]'
    yield b'[{"type":"ClientRequest","messageId":"1","status":200},--Boundary\r\n\r\n\x00'


def _sessions() -> Iterator[bytes]:
    frames = [frame for frame in _frames() if b"\n" not in frame and len(frame) < 1000]
    yield b"\n".join(frames[:8])
    yield b"\n".join(frames[-6:])
    yield from frames


def _socket() -> Iterator[bytes]:
    yield b"\xff\x81\x05hello\x81\x7e\x01\x00" + b"x" * 256 + b"\x88\x02\x03\xe8"
    yield b"\x00\x01\x02ab\x80\x01c\x89\x01p\x8a\x00\x82\x01b"
    yield b"\x05\x81\x7f" + (300).to_bytes(8, "big") + b"x" * 300
    yield b"\x10\xc1\x01x\x81\x81aaaa"
    yield b"\x10\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"


def _encrypted(payload: bytes) -> str:
    return base64.b64encode(AES.new(base64.b64decode(KEY), AES.MODE_ECB).encrypt(pad(payload, 16))).decode()


def _pubnub() -> Iterator[bytes]:
    for payload in _payloads():
        for data in (_encrypted(payload), json.loads(payload)):
            message = {"c": "ch", "d": data, "p": {"t": "14818963571353000", "r": 12}, "f": 0}
            yield json.dumps({"t": {"t": "14818963571353315", "r": 12}, "m": [message, message]}).encode()
    yield b'{"t":{"t":14818963571353315,"r":"x"},"m":[1,null,[],{"d":[1e999]},{"d":{"a":"\\ud800"}}]}'


def _ciphertexts() -> Iterator[bytes]:
    for payload in _payloads():
        yield f"{KEY}\n{_encrypted(payload)}".encode()
    yield b"a\nAAAA"
    yield b"\n=\x80"


def _refusals() -> Iterator[bytes]:
    yield b'{"errorCode":"CMN-102","message":"x","errors":[{"errorCode":"CMN-102","message":"[ReadMessages] x"}]}'
    yield b'{"error":"invalid_grant","error_description":"x","errors":[{"errorCode":"OAU-210","message":"Token"}]}'
    channel = {"transportType": "PubNub", "encryptionKey": "x"}
    refused = {"filter": "/x", "reason": "SUB-528", "message": "x"}
    told = {"id": "x", "status": "Active", "eventFilters": ["/x"], "disabledFilters": [refused]}
    yield json.dumps(told | {"expirationTime": "2026-11-23T10:00:00.120Z", "deliveryMode": channel}).encode()
    yield b'{"records":[{"id":"x"},null],"uri":"x"}'
    yield b'{"access_token":"x","refresh_token":"y","expires_in":3600,"owner_id":"1","scope":"a b"}'


def _certificates() -> Iterator[bytes]:
    authority = trustme.CA(organization_name="Trusted", organization_unit_name="here")
    for pem in (authority.cert_pem, authority.issue_cert("x.example.test").cert_chain_pems[0]):
        yield ssl.PEM_cert_to_DER_cert(pem.bytes().decode())


def _answers() -> Iterator[bytes]:
    yield b"\x00\x64\n120\nhttps://x/y\n{}"
    yield b"\x01\x49\nMon, 23 Nov 2026 10:00:00 GMT\n\n"
    yield b"\x00\xc9\n1e9\n//[::1\nx"


def _config() -> Iterator[bytes]:
    yield (ROOT / "config.example.toml").read_bytes()
    yield b'[subscriptions.team]\nevent_filters = ["/x"]\n[handlers.h]\nuse = "log"\nwhere = "body.a == `1`"\n'
    yield b'[accounts.a]\njwt = { env = "X" }\nserver = "https://x"\n[network]\nproxy = "http://a:b@c:1"\n[web]\nlisten="1"\n'
    yield b'[subscriptions.w]\ntransport = "webhook"\naddress = "https://x/y"\nlisten = "unix:/a"\n'


def _control() -> Iterator[bytes]:
    for op in ("handlers.pause", "handlers.resume", "handlers.retry", "parked.drop", "replay", "status"):
        yield json.dumps({"op": op, "handler": "crm", "positions": [1, 2]}).encode() + b"\n"
    yield b'{"op":"replay","handler":"crm","sinceMs":1,"untilMs":2,"types":["post.*"],"where":"body","rate":0.5}\n'
    yield b'{"op":"handlers.pause","handler":"crm"}\n'


def _with_events(texts: tuple[str, ...]) -> Iterator[bytes]:
    payloads = list(_payloads())
    for number, text in enumerate(texts * 2):
        yield text.encode() + b"\n" + payloads[number % len(payloads)]


def _simulator() -> Iterator[bytes]:
    form = b"\ncontent-type: application/x-www-form-urlencoded\nauthorization: Basic YTpi\n\n"
    yield b"POST /restapi/oauth/token" + form + f"grant_type={JWT_BEARER}&assertion=a.b.c".encode()
    yield b"POST /restapi/oauth/wstoken\nauthorization: Bearer TOKEN\n\n"
    body = b'{"eventFilters":["/team-messaging/v1/posts"],"deliveryMode":{"transportType":"%b"}}'
    for kind in (b"PubNub", b"WebHook", b"WebSocket"):
        yield b"POST /restapi/v1.0/subscription\nauthorization: Bearer TOKEN\n\n" + body % kind
    yield b"GET /restapi/v1.0/subscription?page=1\nauthorization: Bearer TOKEN\n\n"
    yield b"PUT /restapi/v1.0/subscription/x\nauthorization: Bearer TOKEN\n\n{}"
    yield b"GET /v2/subscribe/sub/ch/0?tt=0&tr=1&pnsdk=x\n\n"
    yield b"GET /time/0\n\n"
    yield b"GET /team-messaging/v1/chats?recordCount=9&pageToken=x\nauthorization: Bearer TOKEN\n\n"
    yield b"GET /restapi/v1.0/account/~/extension/~\nauthorization: Bearer TOKEN\n\n"
    yield b'POST /team-messaging/v1/chats/1/posts\nauthorization: Bearer TOKEN\n\n{"text":"x"}'
    for call in ("events", "faults", "knobs", "reset"):
        yield f"POST /simulator/{call}\nhost: localhost\n\n".encode() + b'{"event":"/x","fault":"drop","body":{}}'
    yield b'POST /simulator/events\nhost: localhost\n\n{"count":3,"ratePerS":10,"bytes":20}'
    yield b'POST /webhook/x\n\n{"text":"x"}'


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "frames": _frames,
    "sessions": _sessions,
    "socket": _socket,
    "envelopes": _payloads,
    "pubnub": _pubnub,
    "ciphertexts": _ciphertexts,
    "refusals": _refusals,
    "certificates": _certificates,
    "answers": _answers,
    "config": _config,
    "control": _control,
    "where": lambda: _with_events(EXPRESSIONS),
    "templates": lambda: _with_events(TEMPLATES),
    "simulator": _simulator,
}
