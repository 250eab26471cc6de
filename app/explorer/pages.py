"""`/` and its files, and `/docs`: pages that load nothing from another host."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.responses import FileResponse, HTMLResponse, Response

EXPLORER = Path(__file__).parent
#: Browsers keep the files but ask each time: modules of two versions must not be mixed.
REVALIDATE = {"Cache-Control": "no-cache"}


class RevalidatedFiles(StaticFiles):
    """Static files that browsers revalidate at each use; Python modules are not served."""

    def file_response(self, full_path: Any, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(full_path, *arguments, **options)
        response.headers.update(REVALIDATE)
        return response

    def lookup_path(self, path: str) -> Any:
        return ("", None) if path.endswith(".py") else super().lookup_path(path)


def add(app: FastAPI) -> None:
    """Add the pages to the application, outside the OpenAPI document."""

    @app.get("/", include_in_schema=False)
    async def explorer() -> FileResponse:
        return FileResponse(EXPLORER / "index.html", headers=REVALIDATE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative addresses: a proxy may have put the service below a path of its own.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: interface",
            swagger_js_url="static-offline-docs/swagger-ui-bundle.js",
            swagger_css_url="static-offline-docs/swagger-ui.css",
            swagger_favicon_url="explorer/icon.svg",
        )

    app.mount("/explorer", RevalidatedFiles(directory=EXPLORER))
    # The files of Swagger UI come from a package, for machines without a network.
    app.router.routes += FastAPIOffline(openapi_url=app.openapi_url, docs_url=None, redoc_url=None).routes
