"""Turns an exception that nothing else handles into a problem with status 500, and logs it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import to_response


class UnexpectedErrorsMiddleware:
    """The last resort, inside the other middleware so that its responses have their headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            if started or scope["type"] != "http":
                raise  # the response is under way: all that is left is to cut it off
            await to_response(scope["method"], scope["path"], error)(scope, receive, send)
