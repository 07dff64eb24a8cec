"""Whom does a handler trust, and how does it show who it is? A TLS context of files.

Verifying stays on, TLS is 1.2 or later. Knows certificates; knows nothing of connections.
"""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from rc_push.errors import HandlerError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the user has named, all PEM. *client_key* may stand in *client_certificate* itself."""

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return any((self.ca_file, self.client_certificate, self.client_key))


def context_from(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that trusts *ca_file*, else the system's authorities. Raises HandlerError, naming the file."""
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ssl.SSLError) as exc:
        found = f"ca_file: {files.ca_file} {_fault(exc)}"
        raise HandlerError(f"{found}; name a file of certificates (PEM) that this user can read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.client_certificate:
        _load_client(context, files.client_certificate, files.client_key)
    return context


def _load_client(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        mode = (key or certificate).stat().st_mode
        if stat.S_IMODE(mode) & stat.S_IROTH:
            raise HandlerError(f"{key or certificate} can be read by others; chmod o-r it: it holds a private key")
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as exc:
        named = f"client_certificate, client_key: {certificate}" + (f", {key}" if key else "")
        raise HandlerError(
            f"{named}: {_fault(exc)}; name a certificate and its key (PEM) that this user can read"
        ) from None


def _no_password() -> bytes:
    """Answer in place of OpenSSL, which would ask on the terminal and wait."""
    raise HandlerError("client_key is encrypted; name one that is not, readable by this user alone")


def _fault(exc: OSError) -> str:
    """Return what the system or OpenSSL says. An SSLError is an OSError whose number is OpenSSL's own."""
    if isinstance(exc, ssl.SSLError):
        return f"does not fit ({exc.reason})" if exc.reason else "is no PEM"
    return f"cannot be read ({exc.strerror})"
