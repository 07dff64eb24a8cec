"""Signatures of Standard Webhooks, beside an independent computation."""

from __future__ import annotations

import base64
import subprocess

import pytest

from rc_push.handlers.webhook_signature import key_from, signed_headers

KEY = bytes(range(32))
TEXT = "whsec_" + base64.b64encode(KEY).decode()


def test_a_signature_is_the_one_that_openssl_computes():
    body = b'{"uuid":"u-1"}\x00\xff'
    signed = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}", "-binary"],
        input=b"u-1.1800000000." + body,
        capture_output=True,
        check=True,
    )
    assert signed_headers(key_from(TEXT), "u-1", 1_800_000_000.9, body) == {
        "webhook-id": "u-1",
        "webhook-timestamp": "1800000000",
        "webhook-signature": "v1," + base64.b64encode(signed.stdout).decode(),
    }


def test_a_signature_is_the_one_that_the_specification_shows():
    key = key_from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("length", [24, 64])
def test_a_key_has_24_to_64_bytes(length):
    assert key_from("whsec_" + base64.b64encode(bytes(length)).decode()) == bytes(length)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.removeprefix("whsec_"),
        "whsec_",
        "whsec_PLANTED!",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_é",
    ],
)
def test_what_is_no_key_is_refused_with_the_command_that_makes_one_and_without_its_text(text):
    with pytest.raises(ValueError, match=r"; make one: .*openssl rand -base64 32") as caught:
        key_from(text)
    assert text.removeprefix("whsec_") in ("", "é") or text.removeprefix("whsec_") not in str(caught.value)
