"""Limits of a client over sockets: time, memory, size and pipelined requests."""

import asyncio
import contextlib
import gc
import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.fastpath.protocol import FastProtocol
from app.fastpath.request import FastRequest
from app.inference.jobs import Job
from app.server.limits import MAX_HEAD_BYTES, MAX_HELD_BYTES, MAX_PIPELINED, LimitedProtocol, SharedTimeout
from tests.support.services import HeldModel, Running, body, head, read, until

#: Bytes that the event loop reads at once, at most.
READ_BYTES = 1 << 18


def test_a_too_large_content_length_is_refused_before_the_body_arrives(running: Callable[..., Running]) -> None:
    service = running(max_body_bytes=1024)
    large = bytes(5000)
    with service.connect() as connection:
        connection.sendall(head(large))
        assert read(connection)[0] == 413
        connection.sendall(large)  # of which nothing is kept
        connection.sendall(head(body()) + body())
        assert read(connection)[0] == 200


def test_a_slow_body(running: Callable[..., Running]) -> None:
    service = running(body_timeout=0.2)
    with service.connect() as connection:
        connection.sendall(head(body()) + body()[:20])
        status, _, answer = read(connection)
        assert status == 408
        assert "0.2 s" in json.loads(answer)["detail"]


def test_deadlines_of_the_server_and_of_the_client_hold_while_the_model_hangs(
    running: Callable[..., Running],
) -> None:
    service = running(deadline=1.0)
    held_model = HeldModel(service)
    with service.connect() as first, service.connect() as second, service.connect() as third:
        started = time.monotonic()
        first.sendall(head(body()) + body())
        assert held_model.entered.wait(20)
        second.sendall(head(body(), "X-Request-Timeout: 0.2") + body())
        status, _, answer = read(second)
        assert status == 504
        assert json.loads(answer)["title"] == "Deadline passed"
        assert time.monotonic() - started < 1.0, "the sooner deadline did not come first"
        assert held_model.batcher.waiting == 0
        third.sendall(head(body(), "X-Request-Timeout: 600") + body())  # no later than the service's own
        assert read(first)[0] == read(third)[0] == 504
        held_model.release.set()
        first.sendall(head(body()) + body())
        assert read(first)[0] == 200
        assert held_model.seen == [1, 1], "expired work was computed"
        until(lambda: service.metric("vae_requests_expired_total") == 3)


@pytest.mark.parametrize("timeout", ["soon", "-1", "0", "0.0", "1e3", "nan", "inf", "0x10", ""])
def test_an_invalid_timeout_is_refused(running: Callable[..., Running], timeout: str) -> None:
    with running().connect() as connection:
        connection.sendall(head(body(), f"X-Request-Timeout: {timeout}") + body())
        status, _, answer = read(connection)
        assert status == 422
        assert json.loads(answer)["errors"][0]["place"] == "headers.x-request-timeout"


def test_a_full_queue_refuses_before_a_body_is_read(running: Callable[..., Running]) -> None:
    service = running(queue_rows=3)
    with service.connect() as first, service.connect() as second, service.connect() as third:
        held_model = full_queue(service, first, second)
        third.sendall(head(bytes(1_000)))  # and no body yet
        status, headers, answer = read(third)
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 60
        assert json.loads(answer)["title"] == "Overloaded"
        assert service.metric("vae_requests_rejected_total") == 1
        held_model.release.set()
        assert read(first)[0] == read(second)[0] == 200
        third.sendall(bytes(1_000) + head(body()) + body())
        assert read(third)[0] == 200


def full_queue(service: Running, first: Any, second: Any) -> HeldModel:
    """Fill the queue of a service with `queue_rows=3` by these connections."""
    held_model = HeldModel(service)
    first.sendall(head(body()) + body())
    assert held_model.entered.wait(20)
    several = io.BytesIO()
    np.save(several, np.zeros((3, 8, 8), np.float32))
    second.sendall(head(several.getvalue()) + several.getvalue())
    until(lambda: held_model.batcher.waiting == 3)
    return held_model


def test_requests_like_a_refused_one_are_refused_until_the_queue_moves(running: Callable[..., Running]) -> None:
    service = running(queue_rows=3)
    with service.connect() as first, service.connect() as second, contextlib.ExitStack() as stack:
        held_model = full_queue(service, first, second)
        ids = set()
        for number in range(6):
            connection = stack.enter_context(service.connect())
            connection.sendall(head(body(), f"X-Request-ID: my-{number}") + body())
            status, headers, answer = read(connection)
            assert status == 429
            assert json.loads(answer)["title"] == "Overloaded"
            ids.add(headers["x-request-id"])
        assert ids == {f"my-{number}" for number in range(6)}
        until(lambda: service.metric("vae_requests_rejected_total") == 6)
        other = stack.enter_context(service.connect())
        other.sendall(head(body(), "X-Request-Timeout: soon") + body())
        assert read(other)[0] == 422, "another head is another request"
        held_model.release.set()
        assert read(first)[0] == read(second)[0] == 200
        other.sendall(head(body()) + body())
        assert read(other)[0] == 200


def test_a_refused_client_that_asks_again_at_once_is_not_read_for_a_while(running: Callable[..., Running]) -> None:
    service = running(queue_rows=3)
    with service.connect() as first, service.connect() as second, service.connect() as third:
        held_model = full_queue(service, first, second)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            third.sendall(head(body()) + body())
            assert read(third)[0] == 429
        rejected = service.metric("vae_requests_rejected_total")
        assert rejected is not None and 1 < rejected <= 12, "one each 0.1 s"
        # Halves of a request that arrive meanwhile keep their order.
        third.sendall((head(body()) + body())[:30])
        time.sleep(0.01)
        held_model.release.set()
        third.sendall((head(body()) + body())[30:])
        assert read(third)[0] == read(first)[0] == read(second)[0] == 200


def test_little_is_kept_of_what_a_refused_client_sends_at_once(running: Callable[..., Running]) -> None:
    service = running(queue_rows=3)
    with service.connect() as first, service.connect() as second, service.connect() as third:
        held_model = full_queue(service, first, second)
        third.sendall(head(body()) + body())
        assert read(third)[0] == 429
        connections: Any = service.server.server_state.connections
        (connection,) = [each for each in connections if each.refused_until]
        many = head(bytes(4 << 20)) + bytes(4 << 20)
        sender = threading.Thread(target=third.sendall, args=[many])
        sender.start()
        until(lambda: connection.flow.read_paused)
        assert MAX_HELD_BYTES < connection.timers.held.size <= MAX_HELD_BYTES + READ_BYTES
        held_model.release.set()
        assert read(third)[0] == 400, "zeros are no npy file"
        sender.join(20)


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "in chunks"])
def test_bodies_of_all_requests_share_a_limit(running: Callable[..., Running], chunked: bool) -> None:
    service = running(queue_bytes=300_000)
    budget = service.state.body_limits.budget
    large = io.BytesIO()
    np.save(large, np.zeros((1000, 8, 8), np.float32))
    content = large.getvalue()
    start = head(content)
    if chunked:
        start = start.replace(f"Content-Length: {len(content)}".encode(), b"Transfer-Encoding: chunked")
        start += b"%x\r\n" % len(content)
    with service.connect() as first, service.connect() as second, service.connect() as third:
        first.sendall(start + content[:200_000])
        until(lambda: budget.acquired >= 200_000)
        second.sendall(start + content[:200_000])
        status, headers, _ = read(second)
        assert (status, headers["retry-after"]) == (429, "60")
        third.sendall(head(body()) + body())  # small ones are let in
        assert read(third)[0] == 200
        first.sendall(content[200_000:] + (b"\r\n0\r\n\r\n" if chunked else b""))
        assert read(first)[0] == 200
        until(lambda: budget.acquired == 0)
        third.sendall(start + content[:100_000])
        until(lambda: budget.acquired > 0)
    until(lambda: budget.acquired == 0)


def test_no_object_of_a_closed_connection_stays_alive(running: Callable[..., Running]) -> None:
    service = running(deadline=0.001)
    held_model = HeldModel(service)

    def all_of_them() -> list[Any]:
        return [found for found in gc.get_objects() if type(found) in {FastRequest, FastProtocol, LimitedProtocol, Job}]

    def alive() -> list[Any]:
        return [found for found in all_of_them() if id(found) not in before]

    gc.collect()
    others = all_of_them()  # of other tests
    before = {id(found) for found in others}
    gc.disable()  # which would find what is left in circles, some day
    try:
        for content, status in ((b"junk", 400), (body(2), 422), (body(), 504)):
            with service.connect() as connection:
                connection.sendall(head(content) + content)
                assert read(connection)[0] == status
                assert any(isinstance(found, LimitedProtocol) for found in alive())
            if status != 504:
                until(lambda: not alive())
        held_model.release.set()
        until(lambda: not alive())
    finally:
        gc.enable()
        held_model.release.set()


def test_an_unread_body_is_not_buffered(running: Callable[..., Running]) -> None:
    service = running()
    for path, method in (("/health/live", "GET"), ("/encode", "POST")):
        with service.connect() as connection:
            connection.sendall(head(b"", method=method, path=path).replace(b"Length: 0", b"Length: 100000000"))
            connection.sendall(bytes(100_000))
            assert read(connection)[0] == (200 if method == "GET" else 413)
            connection.sendall(bytes(100_000))
            time.sleep(0.1)
            (open_connection,) = service.server.server_state.connections
            assert isinstance(open_connection, LimitedProtocol)
            assert len(open_connection.cycle.body) <= 200_000
        until(lambda: not service.server.server_state.connections)


def test_request_heads_are_limited_in_size_and_time(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.limits.MAX_HEAD_SECONDS", 0.3)
    service = running()
    with service.connect() as silent, service.connect() as slow, service.connect() as large:
        started = time.monotonic()
        for byte in head(body())[:20]:
            slow.sendall(bytes([byte]))
            time.sleep(0.01)
        assert slow.recv(1) == b""
        assert silent.recv(1) == b""
        assert time.monotonic() - started < 5
        large.sendall(b"GET /model HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                large.sendall(b"a: b\r\n" * 100)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = large.recv(65536)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert read(connection)[0] == 200


def test_the_body_before_a_head_does_not_count_as_head(running: Callable[..., Running]) -> None:
    service = running()
    large = io.BytesIO()
    np.save(large, np.zeros((256, 8, 8), np.float32))
    content, next_head = large.getvalue(), head(body())
    assert len(content) > MAX_HEAD_BYTES
    with service.connect() as connection:
        connection.sendall(head(content))
        time.sleep(0.05)
        connection.sendall(content + next_head[:20])
        assert read(connection)[0] == 200
        connection.sendall(next_head[20:] + body())
        assert read(connection)[0] == 200


def test_a_head_that_has_begun_is_not_an_idle_connection(running: Callable[..., Running]) -> None:
    service = running(keep_alive=1)
    with service.connect() as connection:
        for _ in range(2):
            connection.sendall(head(body())[:20])
            time.sleep(1.3)
            connection.sendall(head(body())[20:] + body())
            assert read(connection)[0] == 200


def test_a_timeout_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    expired: list[Any] = []

    def expire(connection: Any) -> None:
        expired.append(connection)
        if len(expired) == 1:
            raise RuntimeError("of the first")

    async def enter() -> None:
        timeout = SharedTimeout(asyncio.get_running_loop(), 0.01, expire)
        for connection in ("first", "second"):
            timeout.enter(connection)
        await asyncio.sleep(0.05)
        timeout.enter("third")
        await asyncio.sleep(0.05)

    asyncio.run(enter())
    assert expired == ["first", "second", "third"]
    assert "of the first" in caplog.text


def test_idle_connections_are_closed(running: Callable[..., Running]) -> None:
    service = running(keep_alive=1)
    with service.connect() as used, service.connect() as early:
        started = time.monotonic()
        used.sendall(head(body()) + body())
        assert read(used)[0] == 200
        early.sendall(head(b"").replace(b"Length: 0", b"Length: 100000000"))
        assert read(early)[0] == 413
        early.sendall(b"some of it")
        time.sleep(0.5)
        used.sendall(head(body()) + body())
        assert read(used)[0] == 200
        assert early.recv(1) == b""
        assert used.recv(1) == b""
        assert 1.4 < time.monotonic() - started < 10


@pytest.mark.parametrize("path", ["/encode", "/openapi.json"])
def test_pipelined_requests_are_limited(running: Callable[..., Running], path: str) -> None:
    service = running()
    held_model = HeldModel(service)
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert held_model.entered.wait(20)
        connection.settimeout(0.2)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(200):
                connection.sendall(head(b"", method="GET", path=path) * 1000)
        # Refused, or not read any more: that depends on how much of it came in one piece.
        assert all(len(one.pipeline) <= MAX_PIPELINED for one in list(service.server.server_state.connections))  # type: ignore[union-attr]
    held_model.release.set()
    with service.connect() as connection:
        connection.sendall(head(body()) + body())
        assert read(connection)[0] == 200


def test_invalid_content_lengths_are_refused(running: Callable[..., Running]) -> None:
    service = running()
    for length, status in ((f"{len(body())}  ", 200), ("0" * 5000 + str(len(body())), 200), ("9" * 5000, 413)):
        with service.connect() as connection:
            start = head(b"").replace(b"Length: 0", f"Length: {length}".encode())
            connection.sendall(start + body())
            found = connection.recv(65536)
            # The parser itself refuses what is no number for it.
            assert found.startswith((b"HTTP/1.1 %d" % status, b"HTTP/1.1 400")), found


def test_a_hanging_model_fails_the_health_checks(running: Callable[..., Running]) -> None:
    service = running(hang_timeout=0.2)
    held_model = HeldModel(service)
    with service.connect() as first, service.connect() as second:
        first.sendall(head(body()) + body())
        assert held_model.entered.wait(20)
        until(lambda: service.model.hangs)
        for path in ("/health/ready", "/health/live"):
            second.sendall(head(b"", method="GET", path=path))
            status, _, answer = read(second)
            assert status == 503
            assert "hangs" in json.loads(answer)["detail"]
        held_model.release.set()
        assert read(first)[0] == 200
        second.sendall(head(b"", method="GET", path="/health/ready"))
        assert read(second)[0] == 200
