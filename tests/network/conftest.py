"""What do the tests of the network share?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from far import GATEWAY, PLATFORM, PUBNUB, Far, far_away


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Trusted here")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
async def far(authority: trustme.CA, ca_file: Path, tmp_path: Path) -> AsyncIterator[Far]:
    async with far_away(authority, ca_file, tmp_path) as far:
        yield far


@pytest.fixture
def known_hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the hosts of `Far` resolve to this machine, as a real DNS would."""
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def resolve(loop: Any, host: Any, port: Any, **more: Any) -> Any:
        return await real(loop, "127.0.0.1" if host in (PLATFORM, GATEWAY, PUBNUB) else host, port, **more)

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", resolve)
