"""Errors over HTTP: problem documents that name the place and the remedy."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.inference.admission import one_call
from app.inference.context import RequestContext
from model.checkpoint import Checkpoint
from tests.support.refusals import CASES, GOOD, JSON
from tests.support.services import Client, Transport, client_of, state_of


def check(response: Any, status: int, message: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.headers["x-model-digest"]) == 64
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:vae-server:problem:")
    assert body["title"]
    assert message in body["detail"]
    assert "Traceback" not in response.text
    return body


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "message"), CASES, ids=[f"{c[1]}-{c[4]}" for c in CASES]
)
def test_refused(grey: Client, method: str, path: str, request_: dict[str, Any], status: int, message: str) -> None:
    check(grey.request(method, path, **request_), status, message)


def test_a_validation_problem_lists_every_place(grey: Client) -> None:
    body = check(grey.get("/sample?n=0&temperature=99&x=1"), 422, "query.n")
    assert {error["place"] for error in body["errors"]} == {"query.n", "query.temperature", "query.x"}
    body = check(grey.post("/encode", json={"inputs": [[["a"]]]}), 422, "inputs[0]")
    assert [error["place"] for error in body["errors"]] == ["inputs[0]"]


def test_a_large_body_is_refused_by_its_content_length(grey: Client) -> None:
    check(grey.post("/encode", content=b" " * (2 << 20), headers=JSON), 413, "1,048,576 bytes")


def test_a_large_body_without_content_length_is_refused_while_it_is_read(grey: Client) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(32):
            sent += 1
            yield b" " * 65536

    check(grey.post("/encode", content=chunks(), headers=JSON), 413, "1,048,576 bytes")


@pytest.mark.parametrize("length", ["-1", "many", "1.5"])
def test_a_content_length_that_is_not_a_number_is_a_400(loaded: Callable[[str], Checkpoint], length: str) -> None:
    """uvicorn's parser refuses such a head itself; other servers may pass it on."""
    with client_of(loaded("grey-mlp-discretized"), "asgi") as client:
        response = client.post("/encode", content=b"{}", headers={**JSON, "Content-Length": length})
    check(response, 400, "not a number")


Service = Callable[..., Client]


@pytest.fixture
def service(loaded: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Service]:
    """Starts services for tests that break them."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(client_of(loaded("grey-mlp-discretized"), transport, **settings))


def model_of(client: Client) -> Any:
    return state_of(client.app).model


def test_a_failing_model_is_a_500_and_the_service_goes_on(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    client = service()
    calls = model_of(client).engine.calls
    good = calls["encode"]

    def failing(_: Any) -> Any:
        raise RuntimeError("secret detail of the device")

    calls["encode"] = failing
    check(client.post("/encode", json=GOOD), 500, "the model failed on this request")
    calls["encode"] = good
    assert client.post("/encode", json=GOOD).status_code == 200


def test_outputs_that_are_not_finite_are_a_500_and_never_invalid_json(service: Service) -> None:
    client = service(engine="torch")
    engine = model_of(client).engine
    engine.vae.decoder.layers[-1].bias[0] = float("nan")
    try:
        check(client.get("/sample"), 500, "not finite")
    finally:
        engine.vae.decoder.layers[-1].bias[0] = 0.0


def test_an_unexpected_error_is_a_500_without_traceback(service: Service) -> None:
    client = service()
    model_of(client).engine.encode = None
    response = client.post("/encode", json=GOOD)
    check(response, 500, "its log has the cause")
    assert "NoneType" not in response.text


def test_a_full_queue_is_a_429_with_retry_after(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.inference.errors import QueueFull

    client = service()

    async def full(*_: Any, **__: Any) -> Any:
        raise QueueFull("queue_rows", "1000 rows are queued", 7)

    monkeypatch.setattr(model_of(client).engine.batcher, "run", full)
    response = client.post("/encode", json=GOOD)
    check(response, 429, "retry after 7 s")
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_large_request_that_another_worker_may_take_closes_the_connection(service: Service, workers: int) -> None:
    """Else all connections of a few clients could stay with one worker, and the other would be idle."""
    client = service(workers=workers, large_queue_seconds=1.0)
    batcher = model_of(client).engine.batcher
    for call in ("encode", "score"):
        batcher.costs.measured(call, 0.0, 0.1)
    with batcher.admitted(RequestContext(timeout=60.0, deadline=time.monotonic() + 60), one_call("score", 100)):
        refused = client.post("/free-energy?samples=100", json=GOOD)
        check(refused, 429, "large requests ahead")
        assert refused.headers.get("connection", "").lower() == ("close" if workers > 1 else "")
        small = client.get("/health/live")
        assert small.status_code == 200
    assert client.post("/encode", json=GOOD).status_code == 200


def test_a_deadline_that_has_passed_is_a_504(service: Service) -> None:
    client = service(deadline=1e-9)
    model_of(client).engine.batcher.costs.measured("encode", 0.0, 0.0)  # else it is known not to end in time
    check(client.post("/encode", json=GOOD), 504, "in time")


def test_costs_of_the_start_are_measured_again_before_a_413(service: Service) -> None:
    client = service(deadline=1e-9)
    check(client.post("/encode", json=GOOD), 429, "measured again")
    while (answer := client.post("/encode", json=GOOD)).status_code == 429:
        time.sleep(0.01)
    check(answer, 413, "without others, and it has 1e-09 s; send fewer rows")


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/free-energy?samples=64", "score"),
        ("POST", "/free-energy?samples=2&refine=50", "descend"),
        ("GET", "/sample?n=64", "decode"),
        ("GET", "/sample?n=64&noise=true", "draw"),
        ("POST", "/reconstruct", "reconstruct"),
    ],
)
def test_work_that_no_idle_service_could_end_in_time_is_a_413(
    service: Service, method: str, path: str, call: str
) -> None:
    client = service(deadline=30)
    body: dict[str, Any] = {"json": GOOD} if method == "POST" else {}
    assert client.request(method, path, **body).status_code == 200
    model_of(client).engine.batcher.costs.measured(call, 0.0, 60.0, now=time.monotonic())
    check(client.request(method, path, **body), 413, "send fewer rows or samples, or allow more time")


def test_with_a_dead_worker_readiness_and_calls_are_503_and_liveness_is_200(service: Service) -> None:
    client = service()
    assert client.get("/health/ready").json() == {"status": "ready"}
    model_of(client).engine.stop(5)
    check(client.get("/health/ready"), 503, "restart")
    check(client.post("/encode", json=GOOD), 503, "elsewhere")
    assert client.get("/health/live").json() == {"status": "alive"}
    assert "vae_ready 0.0" in client.get("/metrics").text


def test_json_bodies_with_unusual_values_get_problems(grey: Client) -> None:
    for bad in (b'{"inputs": "\\ud800"}', b'{"inputs": [[[1e400]]]}', b'{"inputs": [[[-0.0, 123456789012345678901]]]}'):
        response = grey.post("/encode", content=bad, headers=JSON)
        assert response.status_code in {400, 422}
        json.loads(response.text)
