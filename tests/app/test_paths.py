"""Equal responses of the fast path and of FastAPI: status, headers and content."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from model.checkpoint import Checkpoint
from tests.support.models import CONFIGS
from tests.support.refusals import CASES
from tests.support.requests import inputs
from tests.support.services import Client, client_of

#: Headers that no two responses share, or that only a server adds.
OWN = {"date", "server", "x-request-id"}
Pair = tuple[Client, Client]


@pytest.fixture(scope="module", params=["grey-mlp-discretized", "rgb-conv-discretized", "table-mlp-gaussian"])
def pair(shown: Callable[[str], Checkpoint], request: pytest.FixtureRequest) -> Iterator[tuple[str, Pair]]:
    """Two services of one model, over ASGI and over the fast path."""
    model = shown(request.param)
    with client_of(model, "asgi") as reference, client_of(model, "fast") as fast:
        yield request.param, (reference, fast)


def compare(pair: Pair, method: str, path: str, **request: Any) -> int:
    """Send the request to both, and return the status of their common response."""
    reference, fast = (client.request(method, path, **request) for client in pair)
    assert fast.status_code == reference.status_code, (path, fast.text, reference.text)
    headers = [
        {name: value for name, value in answer.headers.items() if name not in OWN} for answer in (fast, reference)
    ]
    assert headers[0] == headers[1], path
    assert all(name in answer.headers for answer in (fast, reference) for name in ("x-request-id", "x-model-digest"))
    assert fast.content == reference.content, path
    return reference.status_code


def test_refusals_are_equal(pair: tuple[str, Pair]) -> None:
    name, clients = pair
    statuses = {compare(clients, method, path, **request) for method, path, request, _, _ in CASES}
    assert statuses >= {404, 405, 406, 413, 415, 422}, name


@pytest.mark.parametrize("accept", ["application/json", "application/x-npz", "image/png", "*/*", "text/html"])
def test_responses_of_every_call_are_equal(pair: tuple[str, Pair], accept: str) -> None:
    name, clients = pair
    x = inputs(name, 2).tolist()
    z = [[0.5] * CONFIGS[name].latent]
    headers = {"Accept": accept, "Content-Type": "application/json"}
    for path in (
        "/encode",
        "/reconstruct",
        "/reconstruct?inputs=true",
        "/free-energy?samples=4&refine=5",
        "/free-energy?samples=4&per_dimension=true",
        "/free-energy?seed=7",
    ):
        compare(clients, "POST", path, content=json.dumps({"inputs": x}), headers=headers)
    for path in ("/decode", "/decode?noise=true&seed=3"):
        compare(clients, "POST", path, content=json.dumps({"latents": z}), headers=headers)
    for path in (
        "/sample?n=3",
        "/sample?n=3&noise=1&temperature=0.5",
        "/model/gallery",
        "/model/gallery/input?index=2",
        "/model/gallery/input?index=999",
        "/health/ready",
        "/health/live",
    ):
        compare(clients, "GET", path, headers=headers)
    for path in ("/sample", "/model", "/health/ready", "/health/ready?unknown=1", "/nothing"):
        compare(clients, "HEAD", path, headers=headers)


def test_responses_with_a_timeout_or_a_key_are_equal(pair: tuple[str, Pair]) -> None:
    _, clients = pair
    for timeout in ("soon", "", "-1", "0.0", "5"):
        compare(clients, "GET", "/sample", headers={"X-Request-Timeout": timeout})
    compare(clients, "GET", "/sample", headers={"Authorization": "Bearer none-is-needed"})


def test_cards_and_openapi_documents_are_equal(pair: tuple[str, Pair]) -> None:
    _, clients = pair
    assert compare(clients, "GET", "/model") == 200
    assert compare(clients, "GET", "/openapi.json") == 200
    assert compare(clients, "POST", "/model/reload") == 403
