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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        complete = responding = left = False
        watcher: asyncio.Task[None] | None = None

        async def receive_body() -> Message:
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def send_response(message: Message) -> None:
            nonlocal responding
            responding = True
            await send(message)

        async def watch() -> None:
            nonlocal left
            while not complete:
                await asyncio.sleep(WATCH_AFTER_SECONDS)  # the endpoint reads the body, and sees a client that leaves
            while (await receive())["type"] != "http.disconnect":
                pass
            if not responding:
                left = True
                task.cancel()

        def begin() -> None:
            nonlocal watcher
            watcher = asyncio.create_task(watch())

        if not any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"]):
            complete = True
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, begin)
        try:
            await self.app(scope, receive_body, send_response)
        except asyncio.CancelledError:
            if not left:
                if not responding:
                    await to_response(scope["method"], scope["path"], Unavailable(STOPPED))(scope, receive, send)
                raise
            task.uncancel()
            error = ClientLeft("the client left before its response was ready")
            await to_response(scope["method"], scope["path"], error)(scope, receive, send)
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()
