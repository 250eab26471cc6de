"""HTTP over sockets: framing, pipelining, closed connections, and the routes of the fast path."""

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from app import fastpath
from app.api.routers import ROUTERS
from app.fastpath.protocol import MAX_BODY_SECONDS, FastProtocol
from app.fastpath.request import FastRequest
from app.fastpath.routes import FastRoute, fast_routes
from tests.support.services import HeldModel, Running, body, head, read, until


def test_equivalent_requests_get_equal_responses(running: Callable[..., Running]) -> None:
    service = running()
    content = body()
    pieces = {
        "whole": [head(content) + content],
        "head first": [head(content), content],
        "bit by bit": [bytes([byte]) for byte in head(content) + content],
        "keep-alive": [head(content, "Connection: Keep-Alive") + content],
        "twice accepted": [head(content, "Accept: application/json", "Accept: text/html") + content],
        "old": [head(content, "Connection: keep-alive", version="1.0") + content],
        "escaped": [head(content, path="/%65ncode") + content],
        "query": [head(content, path="/encode?strict=false") + content],
    }
    answers = {}
    for name, parts in pieces.items():
        with service.connect() as connection:
            for _ in range(2 if name != "old" else 1):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.001 if len(part) > 1 else 0)
                status, headers, answer = read(connection)
                assert status == 200, (name, answer)
                assert {"date", "server", "content-type", "x-model-digest"} <= headers.keys(), name
                answers[name] = {key: headers[key] for key in ("content-type", "x-model-digest")}, answer
    assert all(answer == answers["whole"] for answer in answers.values())


def test_chunked_bodies_and_expect_100_continue(running: Callable[..., Running]) -> None:
    service, content = running(), body()
    with service.connect() as connection:
        connection.sendall(head(content) + content)
        expected = read(connection)[2]
        chunked = head(content).replace(f"Content-Length: {len(content)}".encode(), b"Transfer-Encoding: chunked")
        connection.sendall(chunked + b"%x\r\n" % len(content) + content + b"\r\n0\r\n\r\n")
        assert read(connection)[2] == expected
        connection.sendall(head(content, "Expect: 100-continue"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        assert read(connection)[2] == expected


def test_pipelined_requests_are_answered_in_order(running: Callable[..., Running]) -> None:
    service = running()
    levels = [0.1, 0.9, 0.4]
    alone = []
    with service.connect() as connection:
        for level in levels:
            connection.sendall(head(body(level)) + body(level))
            alone.append(read(connection)[2])
        assert len(set(alone)) == 3
        connection.sendall(b"".join(head(body(level)) + body(level) for level in levels))
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(alone[-1]):
            received += connection.recv(65536)
    assert [received.index(answer) for answer in alone] == sorted(received.index(answer) for answer in alone)


def test_a_connection_is_closed_when_the_client_asks_for_it(running: Callable[..., Running]) -> None:
    with running().connect() as connection:
        connection.sendall(head(body(), "Connection: close") + body())
        status, headers, _ = read(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_refusals_keep_the_connection(running: Callable[..., Running]) -> None:
    service = running(max_body_bytes=1024)
    with service.connect() as connection:
        for content, path, status in (
            (b"no npy", "/encode", 400),
            (body(2.0), "/encode", 422),
            (body(), "/encode?strict=perhaps", 422),
            (bytes(2000), "/encode", 413),
            (body(), "/nowhere", 404),
            (body(), "/encode", 200),
        ):
            connection.sendall(head(content, path=path) + content)
            received, headers, answer = read(connection)
            assert received == status, answer
            if status != 200:
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(answer)["status"] == status


def test_pipelined_requests_of_a_closed_connection_are_dropped(
    running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    service = running()
    held_model = HeldModel(service)
    with service.connect() as connection:
        connection.sendall(3 * (head(body(), "Accept: */*", "Accept: */*") + body()))
        assert held_model.entered.wait(20)
    until(lambda: not service.server.server_state.tasks)
    held_model.release.set()
    assert held_model.seen == [1]
    assert service.counted(499) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_queued_work_of_a_closed_connection_is_not_computed(running: Callable[..., Running]) -> None:
    service = running()
    assert service.metric("vae_requests_abandoned_total") == 0, "a rise to 1 needs a 0 before it"
    held_model = HeldModel(service)
    first, second = service.connect(), service.connect()
    first.sendall(head(body()) + body())
    assert held_model.entered.wait(20)
    second.sendall(head(body()) + body())
    until(lambda: held_model.batcher.waiting == 1)
    second.close()
    until(lambda: service.counted(499) == 1)
    held_model.release.set()
    assert read(first)[0] == 200
    first.close()
    assert held_model.seen == [1]
    half = service.connect()
    half.sendall(head(body()) + body()[:20])
    until(lambda: service.server.server_state.tasks)
    half.close()
    until(lambda: service.counted(499) == 2)
    assert service.metric("vae_requests_abandoned_total") == 2
    assert not service.server.server_state.tasks


def test_requests_in_flight_are_answered_before_the_server_stops(running: Callable[..., Running]) -> None:
    service = running()
    held_model = HeldModel(service)
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert held_model.entered.wait(20)
        service.server.should_exit = True
        until(lambda: _refused(service.port))
        held_model.release.set()
        status, headers, _ = read(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""
    service.thread.join(20)
    assert not service.thread.is_alive()


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_every_client_gets_its_own_response(running: Callable[..., Running]) -> None:
    service = running(batch_rows=5)
    levels = np.random.default_rng(0).random(60).round(3)

    async def ask(level: float, times: int) -> set[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        means = set()
        for _ in range(times):
            writer.write(head(body(level)) + body(level))
            start = await reader.readuntil(b"\r\n\r\n")
            size = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            mean = json.loads(await reader.readexactly(size))["mean"]
            means.add(np.round(mean, 4).tobytes())
        writer.close()
        await writer.wait_closed()
        return means

    async def everyone() -> list[set[bytes]]:
        return await asyncio.gather(*(ask(float(level), 20) for level in levels))

    answers = asyncio.run(everyone())
    alone = [asyncio.run(ask(float(level), 1)) for level in levels]
    assert answers == alone
    assert len(set().union(*answers)) == len(set(levels))


def test_the_fast_path_takes_the_expected_requests(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, taken = running(http="fast"), []
    respond = FastRoute.respond

    async def noted(route: FastRoute, request: Request, query: BaseModel | None) -> Response:
        taken.append(route.path)
        return await respond(route, request, query)

    monkeypatch.setattr(FastRoute, "respond", noted)
    content = body()
    with service.connect() as connection:
        for parts, path in (
            ([head(content) + content], "/encode"),
            ([head(content), content], "/encode"),
            ([head(b"", method="GET", path="/health/ready")], "/health/ready"),
            ([head(content, "Connection: keep-alive", path="/encode?strict=true") + content], "/encode"),
            ([head(content, "Accept: */*", "Accept: */*") + content], None),
            ([head(content, path="/encode?strict=true&strict=true") + content], None),
            ([head(content, path="/encode?unknown=1") + content], None),
            ([head(b"", method="HEAD", path="/health/ready")], None),
        ):
            taken.clear()
            for part in parts:
                connection.sendall(part)
            if b"HEAD" in parts[0]:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            else:
                read(connection)
            assert taken == ([path] if path else [])


def test_every_endpoint_is_on_the_fast_path(running: Callable[..., Running]) -> None:
    service = running(http="fast")
    every = {
        (method.encode(), route.path.encode())
        for router, _ in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.methods
        for method in route.methods
    }
    assert fast_routes(service.app).keys() == every


def test_a_request_that_is_cancelled_before_it_runs_leaves_no_task(running: Callable[..., Running]) -> None:
    service, taken = running(http="fast"), threading.Event()
    with service.connect():
        until(lambda: service.server.server_state.connections)
        (protocol,) = service.server.server_state.connections
        assert isinstance(protocol, FastProtocol)

        def send_and_leave() -> None:
            protocol.data_received(head(body()) + body())
            if service.server.server_state.tasks:
                taken.set()
            protocol.connection_lost(None)

        protocol.loop.call_soon_threadsafe(send_and_leave)
        assert taken.wait(20)
        until(lambda: not service.server.server_state.tasks)


def test_an_error_while_a_response_is_written_closes_the_connection(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = running(http="fast")

    async def respond(route: FastRoute, request: Request, query: BaseModel | None) -> Response:
        return Response(status_code=999)

    monkeypatch.setattr(FastRoute, "respond", respond)
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert connection.recv(1) == b""
    until(lambda: not service.server.server_state.tasks)
    gc.collect()
    assert "999" in caplog.text


def test_an_idle_connection_holds_no_model(running: Callable[..., Running]) -> None:
    service = running(http="fast")
    batcher = service.model.engine.batcher
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert read(connection)[0] == 200
        requests = [item for item in gc.get_objects() if type(item) is FastRequest]
        assert requests
        until(lambda: not any(batcher in list(vars(request).values()) for request in requests))


async def _some(request: Request) -> Response:
    return Response()


def _blocking(request: Request) -> Response:
    return Response()


async def _without_parameters() -> Response:
    return Response()


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        (_blocking, {}),
        (_without_parameters, {}),
        (_some, {"dependencies": [Depends(_some)]}),
        (_some, {"status_code": 201}),
    ],
    ids=["blocking", "without parameters", "with dependencies", "with a status"],
)
def test_what_a_plan_cannot_do_is_left_to_fastapi(
    running: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: Callable[..., Any],
    options: dict[str, Any],
) -> None:
    router = APIRouter()
    router.add_api_route("/some", _some)
    router.add_api_route("/other", endpoint, **options)
    monkeypatch.setattr("app.api.routers.ROUTERS", ((router, "public"),))
    assert fast_routes(running(http="fast").app).keys() == {(b"GET", b"/some")}


def test_a_slow_body_is_passed_to_fastapi(running: Callable[..., Running]) -> None:
    service, content = running(http="fast"), body()
    with service.connect() as connection:
        connection.sendall(head(content) + content[:50])
        time.sleep(2 * MAX_BODY_SECONDS)
        connection.sendall(content[50:])
        status, _, slow = read(connection)
        assert status == 200
        connection.sendall(head(content) + content)
        assert read(connection)[2] == slow


def test_the_package_is_small() -> None:
    lines = [len(path.read_text().splitlines()) for path in Path(fastpath.__file__).parent.glob("*.py")]
    assert sum(lines) <= 350
