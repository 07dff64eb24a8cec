"""PubNub's encryption: what was encrypted comes back, and what was damaged raises nothing but DecryptError."""

from __future__ import annotations

import base64
import contextlib

import pytest
from Crypto.Cipher import AES
from hypothesis import assume, given
from hypothesis import strategies as st

from rc_push.errors import RcPushError
from rc_push.protocol.crypto import DecryptError, Decryptor

KEY = bytes(range(16))
OTHER = bytes(range(100, 116))
EVENT = b'{"uuid":"1","body":{"text":"gr\xc3\xbc\xc3\x9fe"}}'


def text_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def padded(plain: bytes) -> bytes:
    missing = 16 - len(plain) % 16
    return plain + bytes([missing]) * missing


def encrypted(plain: bytes, key: bytes = KEY) -> bytes:
    """Encrypt block by block what is padded already."""
    return b"".join(AES.new(key, AES.MODE_ECB).encrypt(plain[at : at + 16]) for at in range(0, len(plain), 16))


def ciphertext(plain: bytes, key: bytes = KEY) -> str:
    return text_of(encrypted(padded(plain), key))


def outcome(text: str, *keys: bytes) -> bytes | None:
    """Return the payload, or None for DecryptError. Anything else is raised."""
    try:
        payload = Decryptor(*map(text_of, keys or (KEY,))).decrypt(text)
    except DecryptError:
        return None
    assert isinstance(payload, bytes)
    return payload


# A JSON object of any length, with any bytes inside: the padding is of every length, too.
objects = st.binary(max_size=200).map(lambda inside: b"{" + inside + b"}")


def test_the_encryption_of_these_tests_is_aes_as_published():
    """FIPS 197, appendix C.1; a whole block without padding, which is no message."""
    raw = bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a")
    assert encrypted(bytes.fromhex("00112233445566778899aabbccddeeff")) == raw
    assert outcome(text_of(raw)) is None


@given(objects)
def test_what_was_encrypted_comes_back(plain):
    assert outcome(ciphertext(plain)) == plain


def test_white_space_before_the_object_is_left_where_it_is():
    assert outcome(ciphertext(b" \n" + EVENT)) == b" \n" + EVENT


def test_a_decryptor_goes_on_after_a_failure():
    decryptor = Decryptor(text_of(KEY))
    with pytest.raises(DecryptError):
        decryptor.decrypt(ciphertext(EVENT, OTHER))
    assert decryptor.decrypt(ciphertext(EVENT)) == decryptor.decrypt(ciphertext(EVENT)) == EVENT


# ------------------------------------------------------------------------------------------------------------- keys


@given(objects, st.binary(min_size=16, max_size=16).filter(lambda key: key != KEY))
def test_after_a_renewal_the_new_key_comes_first_and_the_one_before_it_still_counts(plain, old):
    assert outcome(ciphertext(plain, KEY), KEY, old) == plain
    assume(outcome(ciphertext(EVENT, old), KEY) is None)  # by chance, once in some 60 000 keys
    assert outcome(ciphertext(EVENT, old), KEY, old) == EVENT


def test_a_message_for_neither_key_is_refused():
    third = bytes(16)
    assert outcome(ciphertext(EVENT, third), KEY, OTHER) is None
    assert outcome(ciphertext(EVENT, OTHER)) is None


def test_without_any_key_nothing_is_decrypted():
    with pytest.raises(DecryptError):
        Decryptor().decrypt(ciphertext(EVENT))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("not base64!", "^the encryption key is not base64$"),
        ("AAA", "not base64"),
        ("ä" * 24, "not base64"),
        ("", "0 bytes in place of 16"),
        (text_of(bytes(15)), "15 bytes in place of 16"),
        (text_of(bytes(32)), "32 bytes in place of 16"),
    ],
)
def test_a_key_that_is_none_is_refused_at_once(key, says):
    with pytest.raises(DecryptError, match=says):
        Decryptor(text_of(KEY), key)


# ---------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 bytes"),
        ("AAAA", "3 bytes"),
        (text_of(bytes(17)), "17 bytes"),
        ("not base64!", "^not base64$"),
        ("ä", "not base64"),
        (ciphertext(EVENT)[:-1], "not base64"),
        (ciphertext(EVENT)[:-2], "not base64"),
        (ciphertext(EVENT)[:-3], "not base64"),
        (ciphertext(EVENT)[:-4], "no whole blocks"),
        (ciphertext(EVENT) + "\n", "not base64"),
        ("=" + ciphertext(EVENT), "not base64"),
        (ciphertext(b"not JSON"), "^wrong key, or no JSON object inside$"),
        (ciphertext(b""), "no JSON object"),
        (ciphertext(b"[1]"), "no JSON object"),
        (ciphertext(b"7"), "no JSON object"),
    ],
)
def test_what_is_no_message_is_refused_with_the_step_that_failed(text, says):
    with pytest.raises(DecryptError, match=says):
        Decryptor(text_of(KEY)).decrypt(text)


@pytest.mark.parametrize("last", [0, 17, 255])
def test_a_padding_that_is_too_short_or_too_long_is_refused(last):
    plain = (b"{" + b"x" * 30 + b"}")[:31] + bytes([last])
    assert outcome(text_of(encrypted(plain))) is None


@pytest.mark.parametrize("length", range(2, 17))
def test_every_byte_of_the_padding_counts(length):
    plain = b"{" + b"x" * (31 - length) + bytes([length]) * length
    assert outcome(text_of(encrypted(plain))) == plain[:-length]
    for at in range(32 - length, 31):
        wrong = plain[:at] + bytes([length ^ 0xFF]) + plain[at + 1 :]
        assert outcome(text_of(encrypted(wrong))) is None


@given(objects, st.data())
def test_any_character_of_the_text_can_be_another(plain, data):
    text = ciphertext(plain)
    at = data.draw(st.integers(0, len(text) - 1))
    outcome(text[:at] + data.draw(st.characters()) + text[at + 1 :])


@given(objects, st.data())
def test_any_byte_of_a_block_can_be_flipped(plain, data):
    """ECB: only its own block is damaged, and what is returned is as long as before, or refused."""
    raw = bytearray(encrypted(padded(plain)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    payload = outcome(text_of(bytes(raw)))
    is_in_the_last = at // 16 == len(raw) // 16 - 1
    if payload is not None and not is_in_the_last:
        start = at // 16 * 16
        assert len(payload) == len(plain)
        assert payload[:start] + payload[start + 16 :] == plain[:start] + plain[start + 16 :]
    assert payload != plain


@given(objects, st.data())
def test_any_byte_of_the_padding_can_be_flipped(plain, data):
    whole = bytearray(padded(plain))
    at = data.draw(st.integers(len(plain), len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    payload = outcome(text_of(encrypted(bytes(whole))))
    # Only a last byte can still be a padding, of another length, and then what is left is no longer what it was.
    assert payload is None or (at == len(whole) - 1 and payload != plain)


@given(objects, st.integers(0, 15), st.integers(1, 255))
def test_any_byte_of_the_key_can_be_flipped(plain, at, by):
    key = bytearray(KEY)
    key[at] ^= by
    assert outcome(ciphertext(plain), bytes(key)) != plain


@given(objects, st.data())
def test_a_text_can_be_cut_anywhere(plain, data):
    text = ciphertext(plain)
    at = data.draw(st.integers(0, len(text) - 1))
    assert outcome(text[:at]) != plain
    outcome(text[at:])


@given(st.text() | st.binary(max_size=300).map(text_of))
def test_any_text_raises_nothing_but_its_own_error(text):
    outcome(text)


@given(st.text())
def test_any_key_raises_nothing_but_its_own_error(key):
    with contextlib.suppress(DecryptError):
        Decryptor(key)


def test_an_error_tells_neither_text_nor_key():
    key, text = text_of(OTHER), ciphertext(EVENT)
    with pytest.raises(DecryptError) as raised:
        Decryptor(key).decrypt(text)
    assert isinstance(raised.value, RcPushError)
    assert text not in repr(raised.value)
    assert key not in repr(raised.value)
    assert key not in repr(Decryptor(key))
