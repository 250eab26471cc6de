"""State of each request: its id, and the functions that give back what it has taken."""

import itertools
import logging
import re
import secrets
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
#: What a client may call its request: the name goes into response headers and logs.
VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_process, _numbers = secrets.token_hex(6).encode(), itertools.count(1)
log = logging.getLogger("vae")


def choose_request_id(requested: bytes | None) -> bytes:
    """The id of a request: the client's where it is valid, else one that no other request has."""
    if requested and VALID_ID.fullmatch(requested):
        return requested
    return b"%s-%x" % (_process, next(_numbers))


def run_cleanups(cleanups: list[Callable[[], None]]) -> None:
    """Call the functions, the last first. One that raises is logged, and the others are still called."""
    while cleanups:
        try:
            cleanups.pop()()
        except Exception:
            log.exception("a cleanup of a request failed")


class RequestStateMiddleware:
    """Puts the id into `request.state.request_id` and on the response, and runs `request.state.cleanups` at the end.

    Dependencies append to the cleanups. Dependencies that yield would do the same, but asyncio tracks each
    asynchronous generator, which takes longer than the function itself (docs/LOG.md).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = choose_request_id(next((value for name, value in scope["headers"] if name == HEADER), None))
        cleanups: list[Callable[[], None]] = []
        scope.setdefault("state", {}).update(request_id=request_id, cleanups=cleanups)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            run_cleanups(cleanups)
