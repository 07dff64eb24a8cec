"""The files of TLS: what does not fit is named with the file and the remedy, and nothing asks on a terminal."""

from __future__ import annotations

import ssl
import subprocess

import pytest
import trustme

from rc_push.errors import HandlerError
from rc_push.handlers.tls import TlsFiles, context_from


@pytest.fixture(scope="module")
def issued():
    return trustme.CA().issue_cert("127.0.0.1")


@pytest.fixture
def files(tmp_path, issued):
    """Write a certificate and its key as people have them."""
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return TlsFiles(client_certificate=certificate, client_key=key)


def test_verifying_is_on_and_old_tls_is_off():
    context = context_from(TlsFiles())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_client_certificate_is_taken_with_its_key_beside_it_or_in_it(files):
    context_from(files)
    both = files.client_certificate
    both.chmod(0o600)
    both.write_bytes(files.client_key.read_bytes() + both.read_bytes())
    context_from(TlsFiles(client_certificate=both))


def test_a_key_that_the_group_may_read_is_taken_and_one_that_others_may_is_not(files):
    files.client_key.chmod(0o640)
    context_from(files)
    files.client_key.chmod(0o644)
    with pytest.raises(HandlerError, match=rf"{files.client_key} can be read by others; chmod o-r"):
        context_from(files)


def test_an_encrypted_key_is_refused_without_a_question(files):
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", files.client_key]
    encrypted = subprocess.run(command, capture_output=True, check=True).stdout
    files.client_key.write_bytes(encrypted)
    with pytest.raises(HandlerError, match="client_key is encrypted; "):
        context_from(files)


@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_ca_file_that_does_not_fit_is_named(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HandlerError, match=rf"^ca_file: {path} .*; name a file of certificates \(PEM\)"):
        context_from(TlsFiles(ca_file=path))


def test_a_client_certificate_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HandlerError, match=rf"{tmp_path}/no.pem: cannot be read \(No such file or directory\); name a"):
        context_from(TlsFiles(client_certificate=tmp_path / "no.pem"))


def test_a_key_of_another_certificate_is_told(files, tmp_path):
    files.client_key.write_bytes(trustme.CA().issue_cert("other.example").private_key_pem.bytes())
    with pytest.raises(HandlerError, match=r"client\.pem, .*client\.key: does not fit \(.*MISMATCH\)"):
        context_from(files)
