"""How does one long poll go? The official pubnub package, one request at a time.

Knows the package; knows nothing of what a message means or of where the next poll goes on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from rc_push.config import NetworkConfig, is_loopback
from rc_push.errors import UnreachableError
from rc_push.network import SharedTls, proxy_for
from rc_push.protocol.pubnub import Answer, answer_from

if TYPE_CHECKING:
    from pubnub.pubnub_asyncio import PubNubAsyncio

# PubNub may hold a poll for up to 300 s; the package's own value.
POLL_WITHIN_S = 310
USER_ID = "rc-push"
# A queue holds 100 messages of 32 KiB each, base64 included.
ANSWER_MAX_BYTES = 16 << 20

# The package logs whole answers at debug, and failures, which we report ourselves, as errors.
logging.getLogger("pubnub").setLevel(logging.CRITICAL)


class Poller(Protocol):
    """Polls the channels of one subscriber key."""

    async def poll(self, channel: str, timetoken: str, region: int) -> Answer:
        """Return the next answer behind *timetoken*. Raises UnreachableError, ProtocolError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class PubNubPoller:
    """The official package's asyncio client, without its subscription managers."""

    def __init__(self, subscriber_key: str, origin: str, network: NetworkConfig, tls: SharedTls | None = None) -> None:
        """Take *origin* as ``host[:port]``; TLS always, but for a loopback address. Needs a running loop."""
        self._tls = tls or SharedTls(network)
        self._client = _client(subscriber_key, origin, network, self._tls)

    async def poll(self, channel: str, timetoken: str, region: int) -> Answer:
        """Return the next answer behind *timetoken*. Safe to cancel."""
        from pubnub.endpoints.pubsub.subscribe import Subscribe  # noqa: PLC0415 - only where PubNub is used

        request = Subscribe(self._client).channels(channel).timetoken(timetoken)
        if region:
            request = request.region(str(region))
        envelope = await request.future()
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the package has turned it into a value
            raise asyncio.CancelledError
        if envelope.is_error():
            cause = _cause_of(envelope.status)
            if _is_of_tls(cause):
                self._tls.forget()
            raise _unreachable_from(envelope.status, cause)
        return answer_from(envelope.result)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close_session()


def _client(subscriber_key: str, origin: str, network: NetworkConfig, tls: SharedTls) -> PubNubAsyncio:
    from pubnub.pnconfiguration import PNConfiguration  # noqa: PLC0415 - only where PubNub is used
    from pubnub.pubnub_asyncio import PubNubAsyncio  # noqa: PLC0415
    from pubnub.request_handlers.async_httpx import AsyncHttpxRequestHandler  # noqa: PLC0415

    host = origin.rpartition(":")[0].strip("[]") if origin.rpartition(":")[2].isdecimal() else origin
    is_local = is_loopback(host)

    class Handler(AsyncHttpxRequestHandler):  # type: ignore[misc] # the package is untyped
        """The package's own, with our proxy and our authorities: given a transport, httpx looks at no environment."""

        def __init__(self, pubnub: Any) -> None:
            self.pubnub = pubnub  # the package's own `__init__` would read all authorities, for a transport without use
            proxy = _proxy(origin, network, tls)
            self._connector = _transport(verify=tls.context(), http2=not is_local, proxy=proxy)

    configuration = PNConfiguration()
    configuration.subscribe_key = subscriber_key
    configuration.uuid = USER_ID
    configuration.origin = origin
    configuration.ssl = not is_local
    configuration.subscribe_request_timeout = POLL_WITHIN_S
    configuration.connect_timeout = math.ceil(network.connect_timeout_s)  # the package takes whole numbers only
    configuration.suppress_leave_events = True
    configuration.disable_config_locking = False  # else it warns of its own default
    return PubNubAsyncio(configuration, subscription_manager=_NoManager, custom_request_handler=Handler)


class _NoManager:
    """What stands where the package asks a subscription manager. Its own ones each have a task that nothing ends."""

    def __init__(self, pubnub: Any) -> None:
        """Need nothing."""

    def get_custom_params(self) -> dict[str, str]:
        """Return what it adds to a request."""
        return {}


def _transport(**options: Any) -> Any:
    """Return the package's transport, with bounds: httpx unpacks whatever comes, and keeps it all."""
    from httpx import AsyncByteStream, DecodingError, ReadError, Request, Response  # noqa: PLC0415 - see `_client`
    from pubnub.request_handlers.async_httpx import PubNubAsyncHTTPTransport  # noqa: PLC0415

    class Bounded(AsyncByteStream):
        """A body that is cut off where it is too long."""

        def __init__(self, body: Any) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            received = 0
            async for part in self._body:
                received += len(part)
                if received > ANSWER_MAX_BYTES:
                    raise ReadError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await self._body.aclose()

    class Transport(PubNubAsyncHTTPTransport):  # type: ignore[misc] # the package is untyped
        async def handle_async_request(self, request: Request) -> Response:
            request.headers["Accept-Encoding"] = "identity"
            response: Response = await super().handle_async_request(request)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                await response.aclose()
                raise DecodingError("an answer in an encoding that was not asked for", request=request)
            response.stream = Bounded(response.stream)
            return response

    return Transport(**options)


def _proxy(origin: str, network: NetworkConfig, tls: SharedTls) -> Any:
    """Return the proxy as httpx takes it."""
    from httpx import Proxy  # noqa: PLC0415 - only where PubNub is used

    proxy = proxy_for(f"https://{origin}", network)
    if proxy is None:
        return None
    return Proxy(proxy.url, ssl_context=tls.context("proxy") if proxy.scheme == "https" else None)


def _cause_of(status: Any) -> BaseException | None:
    cause = getattr(getattr(status, "error_data", None), "exception", None)
    return cause if isinstance(cause, BaseException) else None


def _is_of_tls(cause: BaseException | None) -> bool:
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _unreachable_from(status: Any, cause: BaseException | None) -> UnreachableError:
    """Return what a failed poll means. The package's texts can hold the URL, so only the status is told."""
    code = getattr(status, "status_code", None)
    if code:
        return UnreachableError(f"PubNub answered the poll with HTTP {code}", phase="poll")
    return UnreachableError(f"PubNub: {type(cause).__name__ if cause else 'no answer'}", phase="poll")
