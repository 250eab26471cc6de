"""Serves the application below a path, for proxies that keep this path and for those that remove it."""

from collections.abc import Sequence

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import ConfigError


class RootPathMiddleware:
    """Puts the path into `scope["root_path"]`, and in front of `scope["path"]` where a proxy has removed it.

    Relative links of the page need its address to end in a slash, so the path alone is redirected to that.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root, path = self.root_path, scope["path"]
            if path == root and scope["method"] in {"GET", "HEAD"}:
                query = scope["query_string"].decode("latin-1")
                await RedirectResponse(f"{root}/?{query}" if query else f"{root}/")(scope, receive, send)
                return
            if not f"{path}/".startswith(f"{root}/"):
                scope["path"] = root + path
                scope["raw_path"] = root.encode() + scope.get("raw_path", path.encode())
            scope["root_path"] = root
        await self.app(scope, receive, send)


def ensure_unused(root_path: str, routes: Sequence[BaseRoute]) -> None:
    """Refuse a path that is also one of the service's own: requests that a proxy has shortened could mean either.

    Raises:
        ConfigError: it names the path.
    """
    for path in sorted(getattr(route, "path", "") for route in routes):
        if f"{path}/".startswith(f"{root_path}/"):
            raise ConfigError(f"root_path: '{root_path}' is the service's own path {path}; choose another")
