"""`doctor` names the hop that breaks: a suite of stub proxies, each with its own way of failing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from far import GATEWAY, PLATFORM, POSTS, PUBNUB, Far, server_context
from stub_network import HttpProxy, Interception, SocksProxy, running

from rc_push import log
from rc_push.__main__ import main
from rc_push.cli.doctor import look
from rc_push.cli.doctor_account import Wishes
from rc_push.cli.hops import Hop, Report
from rc_push.config import Config, SubscriptionConfig, load_what_works

QUICK = Wishes(idle_s=0.0, may_trigger=True)


async def examined(config: Config, wishes: Wishes = QUICK, problems: Any = ()) -> Report:
    report = Report(lambda _: None)
    async with asyncio.timeout(60):
        await look(config, problems, report, wishes)
    return report


def problem(report: Report) -> Hop:
    """Return the one hop that fails."""
    assert len(report.problems) == 1, [str(hop) for hop in report.hops]
    return report.problems[0]


def hops(report: Report, level: str = "ok") -> list[str]:
    return [hop.hop for hop in report.hops if hop.level == level]


def find(report: Report, name: str) -> Hop:
    return next(hop for hop in report.hops if hop.hop == name)


# ---------------------------------------------------------------------------------------------------- the way is open


async def test_an_open_way_ends_with_an_event_and_leaves_nothing_behind(far: Far):
    async with running(HttpProxy(far.routes)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    assert report.exit_code == 0, [str(hop) for hop in report.hops]
    assert hops(report) == [
        *("dns", "proxy", "tls", "http", "clock", "token", "permission", "wstoken"),
        *("dns", "proxy", "tls", "upgrade", "subscribe", "event"),
    ]
    assert "Trusted here" in find(report, "tls").found
    assert all(session.is_over for session in far.sim.state.tokens.sessions)
    assert set(proxy.seen) == {f"{PLATFORM}:443", f"{GATEWAY}:443"}


async def test_pubnub_has_its_own_way(far: Far):
    subscription = SubscriptionConfig("pn", "main", "pubnub", (POSTS,))
    async with running(HttpProxy(far.routes)) as proxy:
        config = far.config(far.network(f"http://127.0.0.1:{proxy.port}"), subscription)
        report = await examined(config)
    assert report.exit_code == 0, [str(hop) for hop in report.hops]
    assert [hop.target for hop in report.hops if hop.hop == "tls"] == [f"{PLATFORM}:443", f"{PUBNUB}:443"]
    assert hops(report)[-2:] == ["subscribe", "event"]
    assert not far.sim.state.subscriptions, "what it has created, it deletes"


# --------------------------------------------------------------------------------------------------------- stub proxies


async def test_a_proxy_that_wants_a_login_is_named_with_407(far: Far):
    async with running(HttpProxy(far.routes, login="us:PLANTED")) as proxy:
        report = await examined(far.config(far.network(f"http://me:WRONG@127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("proxy", f"{PLATFORM}:443")
    assert "HTTP 407" in hop.found
    assert "proxy_password" in hop.found
    assert "WRONG" not in str([str(hop) for hop in report.hops])
    assert report.exit_code == 69


@pytest.mark.parametrize("status", [403, 502, 503])
async def test_a_proxy_that_refuses_connect_is_named_with_the_rule_to_ask_for(far: Far, status: int):
    async with running(HttpProxy(far.routes, status=status)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert hop.hop == "proxy"
    assert f"HTTP {status}" in hop.found
    assert (hop.rule.host, hop.rule.port) == (PLATFORM, 443)
    assert "proxy" in hop.rule.ask


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 "])
async def test_what_is_no_proxy_is_named(far: Far, answer: bytes):
    async with running(HttpProxy(far.routes, answer=answer)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    assert problem(report).hop == "proxy"


async def test_a_proxy_that_nobody_listens_at_is_named(far: Far, unused_tcp_port: int):
    report = await examined(far.config(far.network(f"http://127.0.0.1:{unused_tcp_port}")))
    hop = problem(report)
    assert hop.hop == "proxy"
    assert "Connection refused" in hop.found
    assert (hop.rule.host, hop.rule.port) == ("127.0.0.1", unused_tcp_port)


@pytest.mark.parametrize("upgrade", ["strip", "close", 200, 400, 403, 426])
async def test_an_upgrade_that_is_stripped_is_named_as_blocked_websocket(far: Far, authority: trustme.CA, upgrade: Any):
    interception = Interception(server_context(authority, PLATFORM, GATEWAY), upgrade)
    async with running(HttpProxy(far.plain, interception=interception)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("upgrade", f"{GATEWAY}:443")
    assert "WebSocket" in hop.found
    assert (hop.rule.host, hop.rule.port) == (GATEWAY, 443)
    assert "let WebSocket upgrades pass" in hop.rule.ask
    assert {"http", "token", "wstoken"} <= set(hops(report)), "HTTP works"
    assert report.exit_code == 69
    assert all(session.is_over for session in far.sim.state.tokens.sessions)


async def test_tls_that_an_unknown_authority_intercepts_is_named_with_its_issuer(far: Far):
    strange = trustme.CA(organization_name="Corporate Inspection")
    interception = Interception(server_context(strange, PLATFORM, GATEWAY))
    async with running(HttpProxy(far.plain, interception=interception)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("tls", f"{PLATFORM}:443")
    assert "Corporate Inspection" in hop.found
    assert "ca_file" in hop.remedy
    assert hop.rule.ask == "do not intercept TLS"
    assert not far.sim.state.calls, "nobody gets credentials"


async def test_a_certificate_of_another_host_is_named(far: Far, authority: trustme.CA):
    interception = Interception(server_context(authority, "portal.example.test"))
    async with running(HttpProxy(far.plain, interception=interception)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert hop.hop == "tls"
    assert "Hostname mismatch" in hop.found


async def test_a_connection_that_is_cut_when_it_is_silent_is_named_with_its_time(far: Far):
    async with running(HttpProxy(far.routes, idle_s=1.0)) as proxy:  # a minute, scaled
        config = far.config(far.network(f"http://127.0.0.1:{proxy.port}"))
        report = await examined(config, Wishes(idle_s=3.0, may_trigger=True))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("idle", f"{GATEWAY}:443")
    assert 0.2 <= float(hop.found.split()[-2]) < 2.5
    assert "keep silent connections" in hop.rule.ask


async def test_a_long_poll_that_is_cut_is_named_too(far: Far):
    subscription = SubscriptionConfig("pn", "main", "pubnub", (POSTS,))
    async with running(HttpProxy(far.routes, idle_s=0.6)) as proxy:
        config = far.config(far.network(f"http://127.0.0.1:{proxy.port}"), subscription)
        report = await examined(config, Wishes(idle_s=3.0, may_trigger=False))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("idle", f"{PUBNUB}:443")
    assert "310 s" in hop.rule.ask


async def test_a_silent_connection_that_lives_is_well(far: Far):
    async with running(HttpProxy(far.routes)) as proxy:
        config = far.config(far.network(f"http://127.0.0.1:{proxy.port}"))
        report = await examined(config, Wishes(idle_s=0.3, may_trigger=False))
    assert report.exit_code == 0
    assert hops(report)[-1] == "idle"
    assert find(report, "event").level == "skipped"


@pytest.mark.parametrize(("ahead_s", "words"), [(3600, "behind"), (-3600, "ahead")])
async def test_a_clock_that_is_wrong_by_an_hour_is_named(far: Far, ahead_s: float, words: str):
    far.fronts[PLATFORM].ahead_s = ahead_s
    async with running(HttpProxy(far.routes)) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    hop = problem(report)
    assert hop.hop == "clock"
    assert 3590 <= int(hop.found.split()[0]) <= 3610
    assert words in hop.found
    assert "NTP" in hop.rule.protocol
    assert report.exit_code == 1


async def test_a_socks_proxy_is_followed_and_its_refusal_named(far: Far):
    async with running(SocksProxy(far.routes, login="us:PLANTED")) as proxy:
        report = await examined(far.config(far.network(f"socks5://us:PLANTED@127.0.0.1:{proxy.port}")))
        assert report.exit_code == 0, [str(hop) for hop in report.hops]
        refused = await examined(far.config(far.network(f"socks5://us:WRONG@127.0.0.1:{proxy.port}")))
    assert problem(refused).hop == "proxy"
    assert "authentication" in problem(refused).found
    assert "PLANTED" not in str([str(hop) for hop in [*report.hops, *refused.hops]])


async def test_a_login_page_in_the_place_of_ringcentral_is_named(far: Far, authority: trustme.CA):
    class Portal(HttpProxy):
        async def _intercepted(self, reader: Any, writer: Any, target: str) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nHi")
            await writer.drain()

    portal = Portal(far.plain, interception=Interception(server_context(authority, PLATFORM)))
    async with running(portal) as proxy:
        report = await examined(far.config(far.network(f"http://127.0.0.1:{proxy.port}")))
    assert problem(report).hop == "http"
    assert "text/html" in problem(report).found


# --------------------------------------------------------------------------------------------------- without any proxy


async def test_a_name_that_is_not_known_is_named(far: Far, monkeypatch: pytest.MonkeyPatch):
    async def unknown(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", unknown)
    report = await examined(far.config(far.network()))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("dns", PLATFORM)
    assert (hop.rule.port, report.exit_code) == (53, 69)


async def test_a_port_that_is_closed_is_named_with_the_rule_to_ask_for(far: Far, known_hosts):
    report = await examined(far.config(far.network()))  # 443 of this machine
    hop = problem(report)
    assert (hop.hop, hop.target) == ("connect", f"{PLATFORM}:443")
    assert "Connection refused" in hop.found
    assert (hop.rule.host, hop.rule.port, hop.rule.protocol) == (PLATFORM, 443, "TCP")


# ------------------------------------------------------------------------------------------------ what RingCentral says


@pytest.fixture
async def through(far: Far):
    async with running(HttpProxy(far.routes)) as proxy:
        yield f"http://127.0.0.1:{proxy.port}"


async def test_refused_credentials_are_named_with_the_remedy(far: Far, through: str):
    far.sim.state.users.clear()
    report = await examined(far.config(far.network(through)))
    hop = problem(report)
    assert hop.hop == "token"
    assert "OAU-140" in hop.found
    assert "jwt" in hop.remedy
    assert report.exit_code == 77


async def test_a_missing_permission_for_the_gateway_is_named(far: Far, through: str):
    far.sim.state.knobs.turn({"permissions": "SubscriptionWebSocket,TeamMessaging"})
    report = await examined(far.config(far.network(through)))
    assert problem(report).hop == "wstoken"
    assert "CMN-401" in problem(report).found
    assert report.exit_code == 77


async def test_the_event_filter_that_is_refused_is_found_among_the_others(far: Far, through: str):
    foreign = "/restapi/v1.0/account/999/extension/5/message-store"
    subscription = SubscriptionConfig("team", "main", event_filters=(POSTS, foreign))
    report = await examined(far.config(far.network(through), subscription))
    hop = problem(report)
    assert (hop.hop, hop.target) == ("permission", foreign)
    assert "SUB-406" in hop.found
    assert [hop.target for hop in report.hops if hop.found == "RingCentral takes it"] == [POSTS]


async def test_an_event_filter_that_is_not_served_is_named(far: Far, through: str):
    far.sim.state.knobs.turn({"disabled_filters": "presence"})
    presence = "/restapi/v1.0/account/~/extension/~/presence"
    subscription = SubscriptionConfig("team", "main", event_filters=(POSTS, presence))
    report = await examined(far.config(far.network(through), subscription))
    hop = problem(report)
    assert hop.hop == "permission"
    assert "SUB-412" in hop.found
    assert report.exit_code == 1
    assert "1 of 2" in find(report, "subscribe").found


async def test_a_permission_that_the_scope_does_not_name_is_a_warning(far: Far, through: str):
    presence = "/restapi/v1.0/account/~/extension/~/presence"
    subscription = SubscriptionConfig("team", "main", event_filters=(presence,))
    report = await examined(far.config(far.network(through), subscription))
    assert find(report, "permission").level == "warning"
    assert "ReadPresence" in find(report, "permission").found
    assert report.exit_code == 0


async def test_a_subscription_that_is_confirmed_and_deaf_is_named(far: Far, through: str, monkeypatch):
    monkeypatch.setattr("rc_push.cli.doctor_account.EVENT_WITHIN_S", 0.5)
    await far.sim.admin.faults({"fault": "zombie", "forS": 30})
    report = await examined(far.config(far.network(through)))
    assert problem(report).hop == "event"
    assert report.exit_code == 1


# ---------------------------------------------------------------------------------------------- half a configuration


def half(tmp_path: Path, text: str) -> tuple[Config, Any]:
    path = tmp_path / "half.toml"
    path.write_text(text)
    return load_what_works(path, {})


async def test_without_an_account_the_network_is_looked_at_all_the_same(far: Far, through: str, tmp_path: Path):
    config, problems = half(
        tmp_path,
        f"[accounts.main]\nserver = 'https://{PLATFORM}'\n[network]\nproxy = '{through}'\nca_file = '{far.ca_file}'\n",
    )
    report = await examined(config, problems=problems)
    assert hops(report) == ["dns", "proxy", "tls", "http", "clock"]
    assert hops(report, "skipped") == ["token"]
    assert report.exit_code == 0


async def test_without_subscriptions_these_are_left_out(far: Far, through: str):
    config = far.config(far.network(through))
    config.subscriptions.clear()
    report = await examined(config)
    assert hops(report)[-1] == "token"
    assert hops(report, "skipped") == ["subscribe"]
    assert report.exit_code == 0


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def _quiet():
    yield
    structlog.reset_defaults()
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, log._Stdlib)]


@pytest.fixture
def run_doctor(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, _quiet):
    for name in list(os.environ):
        if name.startswith("RC_"):
            monkeypatch.delenv(name)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(far.sim.client_secret)
    jwt = tmp_path / "jwt"
    jwt.touch(0o600)
    jwt.write_text(far.sim.jwt)

    async def run(network: str, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "rc-push.toml"
        path.write_text(
            f"journal.path = '{tmp_path}/journal.db'\n[accounts.main]\nserver = 'https://{PLATFORM}'\n"
            f"client_id = '{far.sim.client_id}'\nclient_secret.file = '{secret}'\njwt.file = '{jwt}'\n"
            f"[subscriptions.team]\nevent_filters = ['{POSTS}']\n[network]\nca_file = '{far.ca_file}'\n{network}\n"
        )
        code = await asyncio.to_thread(main, ["-c", str(path), "doctor", "--idle", "0", *options])
        out, err = capfd.readouterr()
        return code, out, err

    return run


async def test_the_command_prints_hop_evidence_and_rule(far: Far, run_doctor):
    async with running(HttpProxy(far.routes, status=403)) as proxy:
        code, out, _ = await run_doctor(f"proxy = 'http://127.0.0.1:{proxy.port}'")
    assert code == 69
    assert f"✗ proxy       {PLATFORM}:443: http://127.0.0.1:{proxy.port}: HTTP 403" in out
    assert "ask the firewall's owner: let this machine connect through the proxy" in out
    assert out.splitlines()[-1] == f"it breaks at: proxy ({PLATFORM}:443)"


async def test_json_has_stable_keys(far: Far, run_doctor):
    async with running(HttpProxy(far.routes)) as proxy:
        code, out, _ = await run_doctor(f"proxy = 'http://127.0.0.1:{proxy.port}'", "--json", "--no-trigger")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert {tuple(line) for line in lines} == {("level", "hop", "target", "found", "remedy", "rule")}
    assert [line["hop"] for line in lines if line["level"] == "skipped"] == ["event", "idle"]


async def test_no_secret_is_told_whatever_breaks(far: Far, run_doctor):
    async with running(HttpProxy(far.routes, login="us:PLANTED")) as proxy:
        proxied = f"proxy = 'http://127.0.0.1:{proxy.port}'\nproxy_user = 'us'\nproxy_password = "
        good = await run_doctor(proxied + "'PLANTED'", "--json")
        bad = await run_doctor(proxied + "'PLANTED-wrong'")
        assert (good[0], bad[0]) == (0, 69)
    secrets = ("PLANTED", far.sim.client_secret, far.sim.jwt, *(t.value for t in far.sim.state.tokens._access.values()))
    for _, out, err in (good, bad):
        assert not [secret for secret in secrets if secret in out + err]


@pytest.mark.usefixtures("_quiet")
async def test_a_broken_file_is_a_problem_and_the_way_is_looked_at_with_defaults(tmp_path, capfd, monkeypatch):
    async def unknown(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", unknown)
    (tmp_path / "broken.toml").write_text("[network\n")
    code = await asyncio.to_thread(main, ["-c", str(tmp_path / "broken.toml"), "doctor"])
    out = capfd.readouterr().out
    assert code == 78
    assert "✗ file" in out
    assert "✗ dns         platform.ringcentral.com" in out
