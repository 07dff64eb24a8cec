"""Which certificate does our own server show? The file's, and the new one as soon as it is renewed.

Knows files and TLS; knows nothing of HTTP.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import structlog

from rc_push.errors import UnreachableError

log = structlog.get_logger()

# A key that everybody can read is no secret.
READABLE_BY_OTHERS = 0o004


class Certificate:
    """A chain and its key, and the context that shows them. Raises UnreachableError where they are unusable."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._version = self._versions()
        self.context = self._loaded()

    def reload(self) -> bool:
        """Show what the files hold now, where they have changed; what is unusable changes nothing. Say if they did.

        Connections that are there keep what they have seen.
        """
        version = self._versions()
        if version == self._version:
            return False
        self._version = version
        try:
            self._loaded()  # tried apart: a chain without its key must not get into the context that is in use
            self.context.load_cert_chain(self._chain, self._key, password=_no_password)
        except (UnreachableError, OSError, ValueError) as exc:
            log.error("certificate_unusable", certificate=str(self._chain), error=str(exc), remedy="the old one stays")
            return False
        log.info("certificate_reloaded", certificate=str(self._chain))
        return True

    def _versions(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_version_of(path) for path in (self._chain, self._key))

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            if self._key.stat().st_mode & READABLE_BY_OTHERS:
                raise UnreachableError(f"{self._key}: everybody can read the key; chmod 640 it", phase="listen")
            context.load_cert_chain(self._chain, self._key, password=_no_password)
        except ssl.SSLError as exc:
            what = f"{self._chain} with {self._key}: {exc.reason or 'unusable'}"
            raise UnreachableError(
                f"{what}; name a chain and its key, as PEM without a password", phase="tls"
            ) from None
        except OSError as exc:
            what = f"{self._chain}, {self._key}: {exc.strerror}"
            raise UnreachableError(f"{what}; let this user read both", phase="tls") from None
        except ValueError:
            what = f"{self._key}: it has a password"
            raise UnreachableError(f"{what}; name a key without one", phase="tls") from None
        return context


def _version_of(path: Path) -> tuple[int, int, int]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - follows the links that certbot changes
    except OSError:
        return (0, 0, 0)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _no_password() -> str:
    """Have none: OpenSSL would ask for one on the terminal."""
    raise ValueError("the key has a password")
