"""How is a PubNub message decrypted? AES-128 in ECB mode, PKCS#7 padding, key and text in base64.

Knows bytes and keys; knows nothing of where they come from. Source: RingCentral's SDKs.
"""

from __future__ import annotations

import binascii

from Crypto.Cipher import AES

from rc_push.errors import RcPushError

BLOCK_BYTES = 16


class DecryptError(RcPushError):
    """Raised when a text cannot be decrypted. The message tells the step that failed, never the text or the key."""


class Decryptor:
    """Decrypts with the subscription's key, then with the one before it: a renewal may change the key in flight."""

    def __init__(self, *keys: str) -> None:
        """Take base64 *keys*, newest first. Raises DecryptError where one is no AES-128 key."""
        self._ciphers = [_cipher_from(key) for key in keys]

    def decrypt(self, text: str) -> bytes:
        """Return the JSON object in the base64 ciphertext *text*. Raises DecryptError, nothing else."""
        data = _bytes_from_base64(text)
        if data is None:
            raise DecryptError("not base64")
        if not data or len(data) % BLOCK_BYTES:
            raise DecryptError(f"{len(data)} bytes are no whole blocks")
        for cipher in self._ciphers:
            plain = _without_padding(cipher.decrypt(data))
            # A wrong key leaves valid padding once in 256 times, but hardly ever the beginning of an object.
            if plain is not None and plain.lstrip()[:1] == b"{":
                return plain
        raise DecryptError("wrong key, or no JSON object inside")


def _cipher_from(key: str) -> AES.EcbMode:  # type: ignore[name-defined,unused-ignore] # named in the stubs only
    raw = _bytes_from_base64(key)
    if raw is None:
        raise DecryptError("the encryption key is not base64")
    if len(raw) != BLOCK_BYTES:
        raise DecryptError(f"the encryption key has {len(raw)} bytes in place of {BLOCK_BYTES}")
    return AES.new(raw, AES.MODE_ECB)


def _bytes_from_base64(text: str) -> bytes | None:
    """Return the bytes in *text*; None where it is not base64 in every character."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def _without_padding(data: bytes) -> bytes | None:
    """Return *data* without its PKCS#7 padding; None where that is wrong in any byte."""
    length = data[-1]
    if not 1 <= length <= BLOCK_BYTES or data[-length:] != bytes([length]) * length:
        return None
    return data[:-length]
