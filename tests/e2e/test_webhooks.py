"""Do webhooks work with real processes: restarts, moving, a slow disk, hostile connections, nginx with TLS in front?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import subprocess

import pytest
import trustme
from simulated import wait_for
from traces import select
from webhook_daemon import free_port, slow_disk, subscription, token_in

from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

NGINX_CONF = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream rc_push {{ server {upstream}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    location = /rc-push {{
      proxy_pass http://rc_push;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


@pytest.fixture
async def simulator():
    """Run a simulator in this process, without rate limits."""
    async with Simulator(knobs=Knobs(rate_limits=False)) as running:
        yield running


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def daemon(simulator, make_daemon, port):
    one = make_daemon(simulator.ready)
    one.subscriptions = subscription(port)
    return one


def posted(simulator):
    """Return what became of each post, over all subscriptions."""
    entries = [*simulator.state.subscriptions.values(), *simulator.state.past_webhooks]
    return {post.uuid: post.status for entry in entries if entry.webhook for post in entry.webhook.posted}


async def answers_to(simulator, uuids):
    """Return how posts were answered; one that is handed over may have its answer on the way."""
    await wait_for(lambda: posted(simulator).keys() >= set(uuids))
    return {posted(simulator)[uuid] for uuid in uuids}


async def test_events_are_stored_answered_and_handed_over(simulator, daemon):
    daemon.start()
    await daemon.wait_live()
    uuids = [simulator.emit_sample("post.added") for _ in range(50)]
    await daemon.events.wait(uuids)
    assert {event["rcPush"]["transport"] for event in daemon.events.events} == {"webhook"}
    assert await daemon.stop() == 0
    assert await answers_to(simulator, uuids) == {200}
    daemon.start()
    await daemon.wait_live()
    uuid = simulator.emit_sample("post.added")
    await daemon.events.wait([uuid])
    (gap,) = await daemon.listed("gaps")
    assert (gap["transport"], gap["reason"], gap["certainty"]) == ("webhook", "no connection", "possible")
    assert gap["until"]


async def test_a_daemon_without_webhooks_listens_nowhere_and_loads_no_server(simulator, daemon):
    daemon.subscriptions = '[subscriptions.team]\nevent_filters = ["/team-messaging/v1/posts"]\n'
    daemon.start()
    await daemon.wait_live()
    with open(f"/proc/{daemon.pid}/maps", encoding="utf-8") as maps:  # noqa: ASYNC230, PTH123 - not a file of ours
        assert "aiohttp" not in maps.read()


@pytest.mark.parametrize("move", [("webhook", "websocket"), ("websocket", "webhook"), ("webhook", "pubnub")])
@pytest.mark.parametrize("same_uuid", [True, False])
async def test_moving_is_one_line_and_loses_nothing(simulator, daemon, port, move, same_uuid):
    was, becomes = move
    simulator.state.knobs.turn({"same_uuid": same_uuid})
    daemon.accounts += f'pubnub_origin = "{simulator.pubnub_origin}"\n'
    daemon.subscriptions = subscription(port, transport=was)
    daemon.start()
    await daemon.wait_live()
    first = simulator.emit_sample("post.added")
    await daemon.events.wait([first])
    assert await daemon.stop() == 0
    daemon.subscriptions = subscription(port, transport=becomes)
    daemon.start()
    await daemon.wait_live()

    numbers, moved = [0], asyncio.create_task(daemon.wait_line("transport_changed", 40, now=becomes))

    def emit():
        numbers.append(len(numbers))
        simulator.emit("/team-messaging/v1/posts", {"id": str(numbers[-1]), "text": "moving"})

    while not moved.done() or numbers[-1] < 100:
        emit()
        await asyncio.sleep(0.02)
    await moved
    emit()  # while both were there, the old one can have been the first each time

    def got():
        daemon.events.look()
        return sorted(int(e["body"]["id"]) for e in daemon.events.events if e["body"].get("text") == "moving")

    await daemon.wait_until(lambda: len(got()) >= len(numbers) - 1, 40)
    assert got() == numbers[1:]
    assert {event["rcPush"]["transport"] for event in daemon.events.events} == {was, becomes}
    webhooks = [entry for entry in simulator.state.subscriptions.values() if entry.webhook]
    assert len(webhooks) == (becomes == "webhook")
    (audit, *_) = await daemon.listed("audit")
    assert audit["difference"] == 0
    assert audit["duplicate"] > 0  # both were there
    assert "transport changed" not in [gap["reason"] for gap in await daemon.listed("gaps")]


async def test_a_reload_moves_without_a_restart(simulator, daemon, port):
    daemon.start()
    await daemon.wait_live()
    await daemon.events.wait([simulator.emit_sample("post.added")])
    daemon.subscriptions = subscription(port, transport="websocket")
    daemon.write_config()
    done = await daemon.run("reload")
    assert done.returncode == 0, done.stderr
    await daemon.wait_line("transport_changed", now="websocket")
    uuid = simulator.emit_sample("post.added")
    await daemon.events.wait([uuid])
    assert daemon.events.events[-1]["rcPush"]["transport"] == "websocket"
    assert [entry.webhook for entry in simulator.state.subscriptions.values()] == [None]
    assert "transport changed" not in [gap["reason"] for gap in await daemon.listed("gaps")]


async def test_every_answer_comes_in_time_while_the_disk_is_slow(simulator, daemon, tmp_path):
    daemon.environ["LD_PRELOAD"] = slow_disk(tmp_path, 50_000)
    daemon.start()
    await daemon.wait_live()
    uuids = [simulator.emit_sample("post.added") for _ in range(200)]
    await simulator.admin.faults({"fault": "webhook-storm", "count": 1000})
    uuids.append(simulator.emit_sample("post.added"))
    await daemon.events.wait(uuids)
    (entry,) = simulator.state.subscriptions.values()
    await daemon.wait_until(lambda: len(entry.webhook.posted) == 1201)
    assert {post.status for post in entry.webhook.posted} <= {200, 503}
    assert max(post.took_ms for post in entry.webhook.posted) < 3000


async def test_ten_thousand_connections_harm_no_other_transport(simulator, daemon, port):
    daemon.subscriptions += '[subscriptions.socket]\nevent_filters = ["/team-messaging/v1/posts"]\n'
    daemon.start()
    await daemon.wait_live(subscription="hook")
    await daemon.wait_until(lambda: len(simulator.state.subscriptions) == 2)

    async def hold():
        """Connect, say nothing, and stay for as long as one may."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await reader.read()
            finally:
                writer.close()

    gate = asyncio.Semaphore(400)

    async def through():
        async with gate:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await hold()

    async with asyncio.TaskGroup() as group:
        for _ in range(10_000):
            group.create_task(through())
        uuid = simulator.emit_sample("post.added")
        await daemon.wait_until(
            lambda: (
                daemon.events.look()
                and any(e["uuid"] == uuid and e["rcPush"]["transport"] == "websocket" for e in daemon.events.events)
            )
        )
    await asyncio.sleep(0.1)
    uuid = simulator.emit_sample("post.added")
    await daemon.wait_until(
        lambda: (
            daemon.events.look()
            and any(e["uuid"] == uuid and e["rcPush"]["transport"] == "webhook" for e in daemon.events.events)
        )
    )
    assert await daemon.stop() == 0


def certify(simulator, folder):
    """Write chain.pem and key.pem for this machine, of an authority that the simulator trusts."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (folder / "chain.pem").write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    simulator.state.knobs.turn({"webhook_https": "always", "webhook_ca_file": str(folder / "ca.pem")})


async def test_more_connections_than_it_may_have_files_take_none_that_it_needs_also_before_tls(
    simulator, daemon, tmp_path, port
):
    certify(simulator, tmp_path)
    daemon.subscriptions = subscription(port).replace("http:", "https:")
    daemon.subscriptions += f'certificate = "{tmp_path}/chain.pem"\nkey = "{tmp_path}/key.pem"\n'
    daemon.start()
    await daemon.wait_live()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 1024))  # the usual limit

    def files():
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))  # noqa: PTH208

    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, before[0]), before[1]))
        for _ in range(1200):
            silent = held.enter_context(socket.socket())
            silent.setblocking(False)
            silent.connect_ex(("127.0.0.1", port))
            await asyncio.sleep(0)
        last = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(silent, 1))
        most = files()
        while not last.done():  # it has been ended
            most = max(most, files())
            await asyncio.wait([last], timeout=0.05)
        await asyncio.gather(last, return_exceptions=True)
    assert most < 600
    await daemon.events.wait([simulator.emit_sample("post.added")])
    assert await daemon.stop() == 0
    assert "out of system resource" not in daemon.said()  # asyncio's words, a thousand times a second


async def test_the_token_is_nowhere_but_in_the_journal(simulator, daemon, tmp_path):
    daemon.start()
    await daemon.wait_live()
    await simulator.admin.faults({"fault": "webhook-wrong-token"})
    await daemon.events.wait([simulator.emit_sample("post.added") for _ in range(2)][1:])
    token = token_in(daemon.journal_path)
    assert await daemon.stop() == 0
    found = {path.name for path in tmp_path.iterdir() if path.is_file() and token.encode() in path.read_bytes()}
    assert found <= {"journal.db", "journal.db-wal"}
    assert found


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_nginx_with_tls_in_front(simulator, daemon, tmp_path, port, way):
    tls_port = free_port()
    certify(simulator, tmp_path)
    listen = f"127.0.0.1:{port}" if way == "tcp" else f"unix:{tmp_path}/webhook"
    user = "user root;" if os.geteuid() == 0 else ""  # who starts it, so that it may use the socket
    conf = NGINX_CONF.format(user=user, folder=tmp_path, upstream=listen, port=tls_port)
    (tmp_path / "nginx.conf").write_text(conf, "utf-8")
    trusted = '["127.0.0.1"]' if way == "tcp" else '["unix"]'
    daemon.subscriptions = (
        '[subscriptions.hook]\ntransport = "webhook"\nevent_filters = ["/team-messaging/v1/posts"]\n'
        f'address = "https://127.0.0.1:{tls_port}/rc-push"\nlisten = "{listen}"\ntrusted_proxies = {trusted}\n'
    )
    with subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]) as nginx:  # noqa: ASYNC220
        try:
            daemon.start()
            await daemon.wait_live()
            uuids = [simulator.emit_sample("post.added") for _ in range(100)]
            await daemon.events.wait(uuids)
            assert await answers_to(simulator, uuids) == {200}
        finally:
            nginx.terminate()
    assert select(daemon.journal_path, "SELECT count(*) FROM unreadables") == [(0,)]
