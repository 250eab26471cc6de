"""Headers of every response: the model's digest, security headers, and `Connection: close` while draining."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.state import AppState

DIGEST = b"x-model-digest"
#: On every response: a browser must not take it for another type than it says.
NO_SNIFF = (b"x-content-type-options", b"nosniff")
#: On pages: they run what this service sends and nothing else, and no other page may frame them.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'%s; style-src 'self'%s; img-src 'self' data: blob:; font-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = CONTENT_SECURITY_POLICY % (b"", b"")
#: Swagger UI has a script in its page.
DOCS_PAGE = CONTENT_SECURITY_POLICY % (b" 'unsafe-inline'", b" 'unsafe-inline'")


class ResponseHeadersMiddleware:
    """Adds these headers to each response."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                model = scope["state"].get("model", self.state.model)
                headers = [*message["headers"], NO_SNIFF, (DIGEST, model.digest)]
                if self.state.draining:
                    headers.append((b"connection", b"close"))
                if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    policy = DOCS_PAGE if scope["path"].endswith("/docs") else PAGE
                    headers.append((b"content-security-policy", policy))
                    headers.append((b"referrer-policy", b"no-referrer"))
                    headers.append((b"x-frame-options", b"DENY"))
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, send_with_headers)
