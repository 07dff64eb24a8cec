"""Who may ask for which page? The site as an ASGI application, in memory."""

from __future__ import annotations

import json

import pytest

from rc_push.web.site import Answer, Site, json_answer

TOKEN = "a-planted-token-0815"


async def page():
    return json_answer(200, {"it": "works"})


async def ask(site, path="/page", method="GET", host="127.0.0.1:9464", **headers):
    """Return status, headers and body of the answer."""
    sent = []

    async def send(message):
        sent.append(message)

    named = [(b"host", host.encode("latin-1"))] if isinstance(host, str) else [(b"host", one) for one in host]
    raw = [*named, *((name.encode(), value.encode()) for name, value in headers.items())]
    await site({"type": "http", "method": method, "path": path, "headers": raw}, None, send)
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


@pytest.fixture
def site():
    return Site({"/page": page}, ["events.example.com"])


async def test_a_page_is_given_as_it_is_and_kept_by_nobody(site):
    status, headers, body = await ask(site)
    assert (status, json.loads(body)) == (200, {"it": "works"})
    assert headers["cache-control"] == "no-store"
    assert headers["content-length"] == str(len(body))


async def test_head_gives_the_same_without_the_body(site):
    status, headers, body = await ask(site, method="HEAD")
    assert (status, headers["content-length"], body) == (200, "16", b"")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "localhost", "LOCALHOST:1", "10.1.2.3:9464", "events.example.com."],
)
async def test_this_machine_is_asked_by_its_address_or_its_names(site, host):
    assert (await ask(site, host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a@127.0.0.1",
     "ev\xefl", [], [b"localhost", b"localhost"]],
)  # fmt: skip
async def test_under_a_strangers_name_nothing_is_told(site, host):
    status, _, body = await ask(site, host=host)
    assert status == 421
    assert b"works" not in body


async def test_with_a_token_every_page_wants_it():
    site = Site({"/page": page}, token=TOKEN)
    assert (await ask(site, authorization=f"Bearer {TOKEN}"))[0] == 200
    assert (await ask(site, authorization=f"bearer  {TOKEN}"))[0] == 200
    for wrong in ({}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer "},
                  {"authorization": f"Bearer {TOKEN}x"}):  # fmt: skip
        status, headers, body = await ask(site, **wrong)
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="rc-push"')
        assert TOKEN.encode() not in body
    assert (await ask(site, path="/nowhere"))[0] == 401, "what pages there are is told to nobody else"


async def test_other_pages_are_not_there_and_nothing_can_be_changed(site):
    status, _, body = await ask(site, path="/")
    assert (status, json.loads(body)["pages"]) == (404, ["/page"])
    status, headers, _ = await ask(site, method="POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_a_page_has_its_own_type_and_headers():
    async def text():
        return Answer(503, b"x", "text/plain", {"retry-after": "5"})

    status, headers, _ = await ask(Site({"/page": text}))
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "text/plain", "5")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"])
async def test_a_page_of_another_site_can_neither_change_nor_read_anything(site, method):
    """A browser sends such a request with an Origin; without CORS headers it shows the answer to nobody."""
    status, headers, _ = await ask(site, method=method, origin="https://evil.example")
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control-")]
    status, headers, _ = await ask(site, origin="https://evil.example")
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control-")]
    assert headers["x-content-type-options"] == "nosniff"
