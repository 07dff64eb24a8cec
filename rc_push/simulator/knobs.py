"""What may be turned? Each unknown of RingCentral's behaviour, and each number of it, with the default taken here.

One row per knob: name, type, default, why. Times are RingCentral's own seconds: `Clock` scales them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

# What wstoken, the subscription API and the extension API ask for (protocol.md 3.6).
ALL_PERMISSIONS = (
    "ReadAccounts",
    "ReadMessages",
    "SubscriptionPubNub",
    "SubscriptionWebSocket",
    "SubscriptionWebhook",
    "TeamMessaging",
    "WebSocket",
)


class Knobs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The knobs. Numbers of protocol.md's chapters first, then its unknowns in the order of chapter 11."""

    # OAuth: chapter 2
    access_token_s: Seconds = 3600.0
    refresh_token_s: Seconds = 604_800.0
    refresh_tokens: bool = True  # an app's setting; RingCentral's default is off, JWT apps then log in again
    sessions_per_user: Count = 5
    sixth_session: Literal["evict", "refuse"] = "evict"  # 11.10: revoke the oldest, or 429
    ws_token_s: Seconds = 30.0  # @rc-ex/ws speaks of 600
    permissions: tuple[str, ...] = ALL_PERMISSIONS  # the app's
    bad_client_status: Literal[400, 401] = 400  # 2.6: reported with both
    bad_jwt_code: str = "OAU-140"  # 11.10: the number for a malformed or revoked JWT was not found

    # Rate limits: 1.4
    rate_limits: bool = True
    auth_limit: Count = 5
    retry_after: bool = True  # "in most cases"
    rate_limits_over_wsg: bool = False  # 11.3

    # Subscriptions: chapter 3
    subscription_limit: Count = 20  # 20 in the specification of 2025-03, 30 in the one of 2026
    max_event_filters: Count = 0  # 11.8: no document names one; 0 = none
    disabled_filters: tuple[str, ...] = ()  # parts of event filters that get disabled with SUB-412
    expands_tilde: bool = True  # "but not always"
    websocket_over_http: Literal["refuse", "accept"] = "refuse"  # 4.5: creation with WebSocket over HTTPS
    groups_filter: Literal["both", "chats", "groups"] = "both"  # 11.12: which of the two spellings is served
    overlapping_filters: Literal["once", "each"] = "once"  # 11.8: one event that two of the filters match
    same_uuid: bool = True  # 11.9: one event to two subscriptions carries one uuid
    uuid_form: Literal["decimal", "uuid4", "pod"] = "decimal"  # 7: all three have been seen

    # Gateway: chapter 4
    recovery_buffer_size: Count = 100
    recovery_timeout_s: Seconds = 180.0
    idle_timeout_s: Seconds = 1800.0
    absolute_timeout_s: Seconds = 86_400.0
    max_active_requests: Count = 10
    close_code: Count = 1000  # 11.1: no source lists any
    bad_ws_token: Literal["refuse", "error"] = "refuse"  # noqa: S105 - 11.1: HTTP 401, or an Error frame
    used_ws_token: Literal["refuse", "accept"] = "refuse"  # noqa: S105 - 4.1: accept = it ends the first connection
    kept_after_s: Seconds = 0.05  # what was kept, after ConnectionDetails; @rc-ex/ws misses what comes in the same read
    bare_errors: bool = False  # 11.2: Error frames without messageId and status
    failed_request_type: Literal["ClientRequest", "Error"] = "ClientRequest"  # 11.2
    above_max_requests: Literal["refuse", "serve"] = "refuse"  # 11.3: 429, or nothing happens
    ping_period_s: Seconds = 30.0  # 11.4; 0 = no pings
    pong_within_s: Seconds = 10.0
    missed_pong: Literal["close", "ignore"] = "close"  # 11.4: "may close"
    on_token_expired: Literal["nothing", "close", "error"] = "nothing"  # noqa: S105 - 11.5; error: a frame, then close
    on_session_revoked: Literal["nothing", "close", "error"] = "close"  # 11.5; nothing = no more events
    in_flight: Literal["lost", "replayed"] = "lost"  # 11.6: what was written before the end was noticed
    in_flight_s: Seconds = 1.0  # 11.6: with `replayed`, what was written so shortly before the end
    expired_window_code: str = "WSG-1005"  # 11.6: the code of a recovery that comes too late
    recovers_after_timeout: bool = True  # 11.6: after WSG-902 and WSG-903
    second_connection: Literal["replaces", "fails"] = "replaces"  # 11.6: two clients with one wsc; fails = the second's
    read_over_wsg: Literal["answered", "refused"] = "answered"  # 4.6: reading a subscription there; nobody shows it
    details_with_wsc: bool = True
    wsc_every: Count = 0  # 11.7: every Nth notification carries a new wsc; 0 = ConnectionDetails only
    old_wsc: Literal["accepted", "refused"] = "accepted"  # 11.7: recovery with a wsc that is not the newest

    # PubNub: chapter 5
    pubnub_life_s: Seconds = 900.0  # of a subscription, from its creation or renewal
    pubnub_gone_code: Literal["CMN-102", "SUB-507"] = "CMN-102"  # 3.3: what an expired one's id is answered with
    pubnub_session_end: Literal["lives", "expires"] = "lives"  # 5.1: what becomes of it when its OAuth session ends
    pubnub_secret_key: bool = False  # 5.1: required by the specification, absent from all real answers
    pubnub_hold_s: Seconds = 40.0  # 5.3: seen; PubNub's SDKs wait for up to 310
    pubnub_queue_size: Count = 100
    pubnub_queue_s: Seconds = 1200.0  # "up to 20 minutes"; older pages say 12 to 16, or 5
    pubnub_paces: bool = True  # not RingCentral's: events by the count wait for a reader whose queue is full

    # Webhooks: chapter 6
    webhook_life_s: Seconds = 604_800.0  # where nothing is asked for: 7 days have been seen
    webhook_answer_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0  # real seconds; older pages say 1
    webhook_answer_bytes: Count = 1024
    webhook_https: Literal["not-loopback", "always"] = "not-loopback"  # not RingCentral's: http on this machine
    webhook_ca_file: str = ""  # who signs certificates, as PEM; else the system's authorities
    webhook_token_header: Literal["verification", "validation", "both"] = "both"  # noqa: S105 - 6: both are documented
    webhook_validates_renewals: bool = False  # 6: no page says so
    webhook_retries: Count = 0  # 11.14: how often a post that failed comes again
    webhook_retry_s: Seconds = 10.0
    webhook_blacklist_s: Seconds = 600.0  # 11.14: "after about 10 minutes of failure"
    webhook_ended_status: Literal["Blacklisted", "Suspended"] = "Blacklisted"  # 3.2: the second in spec21 only
    webhook_reactivate_s: Seconds = 0.0  # 11.14: 900 has been seen; 0 = "permanently"

    keeps_payloads: bool = False  # not RingCentral's: the state tells what each notification consisted of

    def turn(self, changes: Mapping[str, Any]) -> None:
        """Set the knobs named in *changes*; values may be text. Raises ValueError, and then changes nothing."""
        lists = {name for name, value in msgspec.structs.asdict(self).items() if isinstance(value, tuple)}
        clean = {
            name: [part for part in value.split(",") if part] if name in lists and isinstance(value, str) else value
            for name, value in changes.items()
        }
        try:
            turned = msgspec.convert(msgspec.structs.asdict(self) | clean, Knobs, strict=False)
        except msgspec.ValidationError as exc:
            raise ValueError(f"{exc}; the knobs are {', '.join(self.__struct_fields__)}") from None
        for name in clean:
            setattr(self, name, getattr(turned, name))

    def copy_from(self, other: Knobs) -> None:
        """Set every knob as *other* has it. All holders of this object see it."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(other, name))
