"""Cancels the work of a client that has left."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import STOPPED, ClientLeft, Unavailable
from app.api.problems import to_response

#: Seconds that a request runs before its connection is watched: most are over by then, and a task for each costs as
#: much as a row of a small model.
WATCH_AFTER_SECONDS = 0.1


class DisconnectMiddleware:
    """Cancels a request whose client closes the connection after its body; the status in metrics and log is 499."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Connection(scope, receive, send).run(self.app)
        else:
            await self.app(scope, receive, send)


class _Connection:
    """One request, and the task that waits for its client to leave."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._body_received = asyncio.Event()
        headers = dict(scope["headers"])
        if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0":
            self._body_received.set()
        self._responding = self._left = False
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        task = asyncio.current_task()
        assert task is not None
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._watch, task)
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._left:
                if not self._responding:
                    await self._answer(Unavailable(STOPPED))
                raise
            task.uncancel()
            await self._answer(ClientLeft("the client left before its response was ready"))
        finally:
            timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_received.set()
        return message

    async def send(self, message: Message) -> None:
        self._responding = True
        await self._send(message)

    def _watch(self, task: "asyncio.Task[None]") -> None:
        async def cancel_when_left() -> None:
            await self._body_received.wait()  # until then the endpoint itself sees a client that leaves
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self._responding:
                self._left = True
                task.cancel()

        self._watcher = asyncio.create_task(cancel_when_left())

    async def _answer(self, error: Exception) -> None:
        await to_response(self.scope["method"], self.scope["path"], error)(self.scope, self._receive, self._send)
