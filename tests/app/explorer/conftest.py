"""A browser and services whose page it opens."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, sync_playwright

from tests.app.explorer.seen import Seen
from tests.support.processes import served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="package")  # while playwright runs, no other test can have an event loop
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="package")
def address() -> Iterator[Callable[..., str]]:
    """A function that serves a model and returns its address; each model is served once."""
    started: dict[tuple[Any, ...], str] = {}
    with ExitStack() as stack:

        def start(model: Path | str, **environment: str) -> str:
            key = (model, *environment.items())
            if key not in started:
                quiet = {"VAE_LOG_LEVEL": "error", **environment}
                started[key], _ = stack.enter_context(served(Path(model), **quiet))
            return started[key]

        yield start


def _fulfil(answer: Any, status: int, route: Route) -> None:
    route.fulfill(json=answer, status=status)


@pytest.fixture
def look(browser: Browser, address: Callable[..., str]) -> Iterator[Callable[..., Seen]]:
    """A function that opens the page of a service as a new visitor."""
    with ExitStack() as stack:

        def open_page(
            model: Path | str = "fashion-mnist-mlp",
            *,
            at: str = "",
            ready: bool = True,
            answers: dict[str, Any] | None = None,
            statuses: dict[str, Any] | None = None,
            environment: dict[str, str] | None = None,
            **context: Any,
        ) -> Seen:
            where = address(model, **(environment or {}))
            visitor = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **context})
            stack.callback(visitor.close)
            visitor.grant_permissions(["clipboard-read", "clipboard-write"])
            seen = Seen(visitor.new_page(), where)
            seen.page.set_default_timeout(20_000)
            seen.page.on("request", lambda request: seen.requests.append(request.url))
            seen.page.on("console", lambda line: seen.errors.append(line.text) if line.type == "error" else None)
            seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
            for path, answer in (answers or {}).items():  # instead of the service's answer
                seen.page.route(f"{where}/{path}", functools.partial(_fulfil, answer, 200))
            for path, problem in (statuses or {}).items():
                seen.page.route(f"{where}/{path}", functools.partial(_fulfil, problem, problem["status"]))
            seen.page.goto(f"{where}/{at}")
            if ready:
                seen.page.wait_for_selector("body[data-ready]")
            return seen

        yield open_page
