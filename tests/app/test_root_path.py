"""A service below a path, behind a proxy that keeps the path and behind one that removes it."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.testclient import TestClient

from app.fastpath.routes import FastRoute
from app.main import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.errors import ConfigError
from tests.support.requests import npy
from tests.support.services import TRANSPORTS, Client, client_of, until

MODEL, ROOT = "grey-mlp-discretized", "/team/vae"
KEPT, REMOVED = ROOT, ""
X = np.full((2, 8, 8), 0.5, np.float32)
JSON = {"content": json.dumps({"inputs": X.tolist()}), "headers": {"Content-Type": "application/json"}}


@pytest.fixture(scope="module", params=TRANSPORTS)
def pair(shown: Callable[[str], Checkpoint], request: pytest.FixtureRequest) -> Iterator[tuple[Client, Client]]:
    """A service below the path, and one without a path."""
    model = shown(MODEL)
    with client_of(model, request.param, root_path=ROOT) as below, client_of(model, request.param) as plain:
        yield below, plain


def ask(client: Client, method: str, path: str, **options: Any) -> Any:
    return client.request(method, path, follow_redirects=False, **options)


@pytest.mark.parametrize("sent", [KEPT, REMOVED], ids=["kept", "removed"])
@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", "/encode", npy(X)),
        ("POST", "/encode?strict=true", JSON),
        ("POST", "/free-energy?samples=4", JSON),
        ("POST", "/encode?unknown=1", JSON),
        ("POST", "/encode", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("GET", "/sample?format=png", {}),
        ("HEAD", "/sample", {}),
        ("GET", "/model", {}),
        ("GET", "/model/gallery", {}),
        ("POST", "/model/reload", {}),
        ("GET", "/health/live", {}),
        ("GET", "/health/ready", {}),
        ("GET", "/", {}),
        ("GET", "/docs", {}),
        ("GET", "/explorer/app.js", {}),
        ("GET", "/static-offline-docs/swagger-ui.css", {}),
    ],
)
def test_answers_are_those_of_a_service_without_a_path(
    pair: tuple[Client, Client], sent: str, method: str, path: str, options: dict[str, Any]
) -> None:
    below, plain = pair
    expected, answer = ask(plain, method, path, **options), ask(below, method, sent + path, **options)
    assert expected.status_code != 404
    assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
    own = {"date", "x-request-id"}
    assert {name: text for name, text in answer.headers.items() if name not in own} == {
        name: text for name, text in expected.headers.items() if name not in own
    }


@pytest.mark.parametrize("sent", [KEPT, REMOVED], ids=["kept", "removed"])
def test_problems_name_the_path_of_the_client(pair: tuple[Client, Client], sent: str) -> None:
    below, _ = pair
    unknown = ask(below, "GET", f"{sent}/nothing")
    assert unknown.status_code == 404
    assert unknown.json()["detail"] == f"no route matches {ROOT}/nothing; see {ROOT}/docs for the available calls"
    file = ask(below, "GET", f"{sent}/explorer/nothing.js")
    assert (
        file.json()["detail"] == f"no route matches {ROOT}/explorer/nothing.js; see {ROOT}/docs for the available calls"
    )
    method = ask(below, "GET", f"{sent}/encode")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert method.json()["detail"] == f"{ROOT}/encode does not take GET; it takes POST"
    assert ask(below, "POST", f"{sent}/").status_code == 405


def test_a_path_that_only_begins_alike_is_another(pair: tuple[Client, Client]) -> None:
    below, _ = pair
    assert ask(below, "GET", f"{ROOT}x/health/ready").status_code == 404
    assert ask(below, "GET", f"{ROOT}{ROOT}/health/ready").status_code == 404


def test_the_path_alone_leads_to_the_page(pair: tuple[Client, Client]) -> None:
    below, _ = pair
    for query in ("", "?tab=card"):
        answer = ask(below, "GET", f"{ROOT}{query}")
        assert (answer.status_code, answer.headers["location"]) == (307, f"{ROOT}/{query}")
        assert {"x-request-id", "x-model-digest"} <= answer.headers.keys()
    assert ask(below, "POST", ROOT).status_code == 404


def test_the_openapi_document_names_the_server(pair: tuple[Client, Client]) -> None:
    below, plain = pair
    expected = plain.get("/openapi.json").json()
    assert expected["servers"] == [{"url": "."}]
    for sent in (KEPT, REMOVED):
        document = below.get(f"{sent}/openapi.json").json()
        assert document == {**expected, "servers": [{"url": ROOT}]}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_metrics_and_log_lines_name_the_route(
    loaded: Callable[[str], Checkpoint], transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(loaded(MODEL), transport, root_path=ROOT) as client, caplog.at_level(logging.INFO, "vae.access"):
        for sent in (KEPT, REMOVED):
            assert client.post(f"{sent}/encode", **npy(X)).status_code == 200
            assert client.get(f"{sent}/sample?n=1&n=1").status_code == 422  # not by the fast path
            assert client.get(f"{sent}/explorer/encode").status_code == 404
        until(lambda: len(caplog.records) == 6)
        fields = [record.fields for record in caplog.records if hasattr(record, "fields")]
        text = client.get("/metrics").text
    counted = dict(
        re.findall(r'^vae_requests_total\{method="\w+",route="(\S+)",status="\d+"\} (\S+)$', text, re.MULTILINE)
    )
    assert counted == {"/encode": "2.0", "/sample": "2.0", "other": "2.0"}
    assert [(line["path"], line["route"]) for line in fields] == 2 * [
        (f"{ROOT}/encode", "/encode"),
        (f"{ROOT}/sample", "/sample"),
        (f"{ROOT}/explorer/encode", "other"),
    ]


def test_the_fast_path_takes_requests_below_the_path(
    loaded: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    respond = FastRoute.respond

    async def noted(route: FastRoute, request: Request, query: BaseModel | None) -> Response:
        taken.append(route.path)
        return await respond(route, request, query)

    monkeypatch.setattr(FastRoute, "respond", noted)
    with client_of(loaded(MODEL), "fast", root_path=ROOT) as client:
        for sent in (KEPT, REMOVED):
            assert client.post(f"{sent}/encode", **npy(X)).status_code == 200
    assert taken == ["/encode", "/encode"]


def test_a_server_that_knows_the_path_itself(loaded: Callable[[str], Checkpoint]) -> None:
    """A scope with a root path, as uvicorn and hypercorn make it with --root-path."""
    with client_of(loaded(MODEL), "asgi") as client:
        below = TestClient(client.app, root_path=ROOT)
        assert below.post(f"{ROOT}/encode", **npy(X)).status_code == 200
        assert f"see {ROOT}/docs" in below.get(f"{ROOT}/nothing").json()["detail"]
        assert below.get(f"{ROOT}/openapi.json").json()["servers"] == [{"url": "."}]


@pytest.mark.parametrize("path", ["/model", "/health", "/docs", "/encode", "/explorer", "/openapi.json"])
def test_a_path_of_the_service_itself_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=f"root_path: '{path}' is the service's own path {path}"):
        create_app(Settings(root_path=path))
    assert create_app(Settings(root_path=f"/vae{path}"))
