"""Requests over real sockets: whichever way they arrive, in one piece or in many, the answer is the same."""

import asyncio
import json
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest
from app.fastpath.exchange import Exchange

from tests.app.sockets import Held, Running, body, head, read, until


def test_the_answer_is_the_same_whichever_way_a_request_arrives(running: Callable[..., Running]) -> None:
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


def test_chunks_and_a_client_that_asks_whether_to_go_on(running: Callable[..., Running]) -> None:
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


def test_pipelined_requests_are_answered_in_their_order(running: Callable[..., Running]) -> None:
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
            found, headers, answer = read(connection)
            assert found == status, answer
            if status != 200:
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(answer)["status"] == status


def test_a_client_that_sent_ahead_and_left_is_done_with(
    running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    service = running()
    held = Held(service)
    with service.connect() as connection:
        connection.sendall(3 * (head(body(), "Accept: */*", "Accept: */*") + body()))
        assert held.entered.wait(20)
    until(lambda: not service.server.server_state.tasks)
    held.release.set()
    assert held.seen == [1]
    assert service.counted(499) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_nothing_is_done_for_a_client_that_has_left(running: Callable[..., Running]) -> None:
    service = running()
    assert service.metric("vae_requests_abandoned_total") == 0, "a rise to 1 needs a 0 before it"
    held = Held(service)
    first, second = service.connect(), service.connect()
    first.sendall(head(body()) + body())
    assert held.entered.wait(20)
    second.sendall(head(body()) + body())
    until(lambda: held.batcher.waiting == 1)
    second.close()
    until(lambda: service.counted(499) == 1)
    held.release.set()
    assert read(first)[0] == 200
    first.close()
    assert held.seen == [1]
    half = service.connect()
    half.sendall(head(body()) + body()[:20])
    until(lambda: service.server.server_state.tasks)
    half.close()
    until(lambda: service.counted(499) == 2)
    assert service.metric("vae_requests_abandoned_total") == 2
    assert not service.server.server_state.tasks


def test_what_is_under_way_is_answered_before_the_server_stops(running: Callable[..., Running]) -> None:
    service = running()
    held = Held(service)
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert held.entered.wait(20)
        service.server.should_exit = True
        until(lambda: _refused(service.port))
        held.release.set()
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


def test_no_answer_goes_to_another_client(running: Callable[..., Running]) -> None:
    service = running(batch_rows=5)
    levels = np.random.default_rng(0).random(60).round(3)

    async def ask(level: float, times: int) -> set[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        found = set()
        for _ in range(times):
            writer.write(head(body(level)) + body(level))
            start = await reader.readuntil(b"\r\n\r\n")
            size = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            mean = json.loads(await reader.readexactly(size))["mean"]
            found.add(np.round(mean, 4).tobytes())
        writer.close()
        await writer.wait_closed()
        return found

    async def everyone() -> list[set[bytes]]:
        return await asyncio.gather(*(ask(float(level), 20) for level in levels))

    answers = asyncio.run(everyone())
    alone = [asyncio.run(ask(float(level), 1)) for level in levels]
    assert answers == alone
    assert len(set().union(*answers)) == len(set(levels))


def test_the_shorter_way_is_taken(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    service, taken = running(), []
    run = Exchange.run

    async def noted(exchange: Exchange) -> None:
        taken.append(exchange.path)
        await run(exchange)

    monkeypatch.setattr(Exchange, "run", noted)
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        read(connection)
        connection.sendall(head(b"", method="GET", path="/health/ready"))
        assert read(connection)[0] == 200
        connection.sendall(head(body(), "Accept: */*", "Accept: */*") + body())
        read(connection)
    assert taken == ["/encode", "/health/ready"]
