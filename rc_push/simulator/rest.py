"""Which REST call is it, may it pass, and what does it answer? One table for HTTPS and for the gateway.

Knows paths, limits and faults; what a call does stands in `oauth.py`, `subscriptions.py` and `chats.py`.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rc_push.simulator import chats, oauth, subscriptions
from rc_push.simulator.answers import Answer, Call, Refused, not_found, rest_error
from rc_push.simulator.faults import Hang, Slow
from rc_push.simulator.samples import CHATS
from rc_push.simulator.state import CallRecord, World

OAUTH = "/restapi/oauth"
EXTENSION = "/restapi/v1.0/account/{accountId}/extension/{extensionId}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row: *group* is its rate limit group; *bearer* = it wants an access token, and the limit is the caller's."""

    method: str
    path: str
    group: str
    function: Callable[[World, Call], Answer]
    bearer: bool = True

    def ids_from(self, method: str, path: str) -> dict[str, str] | None:
        """Return the ids in *path* where it is this operation's (a slash at the end means nothing), else None."""
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path)
        match = re.fullmatch(pattern, path.rstrip("/")) if method == self.method else None
        return match.groupdict() if match else None


def read_extension(world: World, call: Call) -> Answer:
    """Tell the caller who it is."""
    assert call.oauth is not None  # noqa: S101 - the table says that the caller is known
    user = call.oauth.user
    if "ReadAccounts" not in world.knobs.permissions:
        raise rest_error(403, "CMN-401", "Specific application permission required", permissionName="ReadAccounts")
    for name, own in (("accountId", user.account_id), ("extensionId", user.extension_id)):
        if call.ids[name] not in ("~", own):
            raise not_found(name)
    root = "" if call.gateway else world.server_url
    account_uri = f"{root}/restapi/v1.0/account/{user.account_id}"
    return Answer(
        200,
        {
            "uri": f"{account_uri}/extension/{user.extension_id}",
            "id": int(user.extension_id),
            "extensionNumber": user.extension_number,
            "name": f"Extension {user.extension_number}",
            "type": "User",
            "status": "Enabled",
            "account": {"uri": account_uri, "id": user.account_id},
            "permissions": {"admin": {"enabled": True}},
            "setupWizardState": "Completed",
            "hidden": False,
        },
    )


OPERATIONS = (
    Operation("POST", f"{OAUTH}/token", "auth", oauth.token, bearer=False),
    Operation("POST", f"{OAUTH}/revoke", "auth", oauth.revoke, bearer=False),
    Operation("POST", f"{OAUTH}/wstoken", "auth", oauth.wstoken),
    Operation("POST", subscriptions.PATH, "medium", subscriptions.create),
    Operation("GET", subscriptions.PATH, "light", subscriptions.list_all),
    Operation("GET", f"{subscriptions.PATH}/{{subscriptionId}}", "light", subscriptions.read),
    Operation("PUT", f"{subscriptions.PATH}/{{subscriptionId}}", "medium", subscriptions.update),
    Operation("DELETE", f"{subscriptions.PATH}/{{subscriptionId}}", "medium", subscriptions.delete),
    Operation("POST", f"{subscriptions.PATH}/{{subscriptionId}}/renew", "light", subscriptions.renew),
    Operation("GET", EXTENSION, "light", read_extension),
    Operation("GET", CHATS, "light", chats.list_all),
    Operation("POST", f"{CHATS}/{{chatId}}/posts", "medium", chats.add_post),
    Operation("DELETE", f"{CHATS}/{{chatId}}/posts/{{postId}}", "medium", chats.delete_post),
)


def answer(world: World, call: Call) -> Answer:
    """Do what *call* asks, and record it. Raises nothing: a refusal is an answer. Over HTTPS: `whole_answer`."""
    world.expire()
    operation = _operation_of(call)
    try:
        said = _answer(world, call, operation)
    except Refused as refused:
        said = refused.answer
    return said if said.later else _recorded(world, call, operation, said)


async def whole_answer(world: World, call: Call) -> Answer:
    """Do what *call* asks, also where that takes a while, and record it."""
    said = answer(world, call)
    if said.later is None:
        return said
    try:
        said = await said.later()
    except Refused as refused:
        said = refused.answer
    return _recorded(world, call, _operation_of(call), said)


def _recorded(world: World, call: Call, operation: Operation | None, said: Answer) -> Answer:
    endpoint = f"{call.method} {operation.path if operation else call.path}"
    record = CallRecord(world.clock.iso(), said.status, operation.group if operation else "", call.via)
    world.calls.setdefault(endpoint, []).append(record)
    headers = {"RCRequestId": str(uuid.uuid4()), "RoutingKey": "SJC01P07"} | call.rate_headers | said.headers
    return Answer(said.status, said.body, headers)


def _answer(world: World, call: Call, operation: Operation | None) -> Answer:
    world.faults.refuse(call.path)
    if operation is None or (call.gateway and call.path.startswith(OAUTH)):
        raise rest_error(404, "CMN-120", "Invalid URI")
    if operation.bearer:
        if call.oauth is None:
            call.oauth = world.tokens.authorize(call.headers.get("authorization", ""))
        elif call.oauth.is_over:
            raise rest_error(401, "OAU-213", "Token not found")
        if call.gateway is None or world.knobs.rate_limits_over_wsg:
            world.limits.take(call.oauth.user.extension_id, operation.group, call.rate_headers)
    return operation.function(world, call)


def _operation_of(call: Call) -> Operation | None:
    for operation in OPERATIONS:
        ids = operation.ids_from(call.method, call.path)
        if ids is not None:
            call.ids = ids
            return operation
    return None


def delay_at(world: World, path: str) -> Slow | Hang | None:
    """Return the fault that keeps the answer to a call at *path* back; None = none does."""
    return world.faults.take(Slow, path) or world.faults.take(Hang, path)


async def wait(world: World, delay: Slow | Hang) -> None:
    """Wait as long as *delay* says: some seconds, or until the next reset."""
    if isinstance(delay, Slow):
        await asyncio.sleep(delay.delay_s)
    else:
        await world.released.wait()


def routes(world: World) -> list[Route]:
    """Return the HTTPS side."""

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        delay = delay_at(world, request.url.path)
        if delay:
            await wait(world, delay)
        query, headers = dict(request.query_params), dict(request.headers)
        said = await whole_answer(world, Call(request.method, request.url.path, body, query, headers))
        headers = {"Server": "nginx", "Date": formatdate(usegmt=True)} | said.headers
        return Response(said.content(), said.status, headers, "application/json")

    methods = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    return [Route(f"{root}/{{path:path}}", endpoint, methods=methods) for root in ("/restapi", "/team-messaging")]
