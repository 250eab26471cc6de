"""Names each request: `X-Request-ID`, the client's own or one that no other request has."""

import itertools
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
#: What a client may call its request: the name goes into response headers and logs.
VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_process, _numbers = secrets.token_hex(6).encode(), itertools.count(1)


def choose_request_id(requested: bytes | None) -> bytes:
    """The id of a request: the client's where it is valid, else one that no other request has."""
    if requested and VALID_ID.fullmatch(requested):
        return requested
    return b"%s-%x" % (_process, next(_numbers))


class RequestIDMiddleware:
    """Puts the id of the request into `scope["state"]["request_id"]`, and on the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = choose_request_id(next((value for name, value in scope["headers"] if name == HEADER), None))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id)]
            await send(message)

        await self.app(scope, receive, send_with_id)
