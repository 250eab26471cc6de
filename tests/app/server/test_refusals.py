"""Refusals by the head of a request alone, which are sent again until the queue moves."""

import doctest
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from app.fastpath.request import FastRequest
from app.inference import errors
from app.inference.admission import Admission
from app.server import refusals
from tests.support.services import HeldModel, Running, body, head, read, until

CONTENT = body()
REQUEST = head(CONTENT) + CONTENT


# Requests on the standard path have no shortcut.
pytestmark = pytest.mark.parametrize("running", ["fast"], indirect=True)


@dataclass
class Full:
    """A service that refuses requests to /encode: its model is held, and as many wait as may."""

    service: Running
    model: HeldModel
    admitted: list[socket.socket] = field(default_factory=list)
    judged: int = 0  # requests that were refused by their heads since it is full
    parsed: int = 0  # requests since it is full

    def fill(self) -> None:
        """Send requests until one is refused."""
        refused = self.service.counted(429)
        while self.service.counted(429) == refused:
            connection = self.service.connect()
            connection.sendall(head(CONTENT, "X-Filling: yes") + CONTENT)
            connection.settimeout(0.1)
            try:
                assert read(connection)[0] == 429
                connection.close()
                until(lambda: self.service.counted(429) > refused)
            except TimeoutError:
                connection.settimeout(10)
                self.admitted.append(connection)
        self.judged = self.parsed = 0

    def move(self) -> None:
        """Have the request that came last leave, and another one take its place."""
        departures = self.model.batcher.departures
        self.admitted.pop().close()
        until(lambda: self.model.batcher.departures > departures)
        self.fill()

    def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        with self.service.connect() as connection:
            connection.sendall(request)
            return read(connection)


@pytest.fixture
def full(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    service = running(queue_seconds=0.01, max_body_bytes=4096)
    found = Full(service, HeldModel(service))
    service.model.engine.batcher.costs.measured("encode", 0.0, 0.006)
    check = Admission.check

    def counting_check(*arguments: object) -> None:
        found.judged += 1
        check(*arguments)  # type: ignore[arg-type]

    start = FastRequest.start

    def counting_start(*arguments: object) -> None:
        found.parsed += 1
        start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Admission, "check", counting_check)
    monkeypatch.setattr(FastRequest, "start", counting_start)
    found.fill()
    assert len(found.admitted) >= 2
    yield found
    found.model.release.set()
    for connection in found.admitted:
        connection.close()


def test_doctests(running: object) -> None:
    assert doctest.testmod(refusals).failed == 0


def test_an_equal_head_is_judged_once(full: Full) -> None:
    first, second = full.send(REQUEST), full.send(REQUEST)
    assert (full.judged, full.parsed) == (1, 1)
    assert first[0] == second[0] == 429
    ids = {answer[1].pop("x-request-id") for answer in (first, second)}
    assert len(ids) == 2
    for _, headers, _ in (first, second):
        headers.pop("date")
    assert first == second
    assert {"retry-after", "x-model-digest", "x-content-type-options", "server"} <= first[1].keys()
    until(lambda: full.service.counted(429) == 3)


def test_a_refusal_is_judged_again_when_the_queue_has_moved(full: Full) -> None:
    full.send(REQUEST)
    full.move()
    assert [full.send(REQUEST)[0] for _ in range(2)] == [429, 429]
    assert (full.judged, full.parsed) == (1, 0)


def test_a_refusal_names_work_ahead_that_is_not_old(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    full.send(REQUEST)
    monkeypatch.setattr(refusals, "MAX_SECONDS", 0.0)
    assert full.send(REQUEST)[0] == 429
    monkeypatch.undo()
    monkeypatch.setattr(errors, "whole_wait", lambda _: 7)
    full.move()
    assert full.send(REQUEST)[1]["retry-after"] == "7"


def test_another_body_of_the_same_size_is_refused_as_well(full: Full) -> None:
    full.send(REQUEST)
    assert full.send(head(CONTENT) + bytes(len(CONTENT)))[0] == 429
    assert full.judged == 1


def test_a_request_keeps_its_own_headers(full: Full, caplog: pytest.LogCaptureFixture) -> None:
    full.send(head(CONTENT, "X-Request-ID: one") + CONTENT)
    caplog.set_level("INFO", logger="vae.access")
    trace = f"00-{7:032x}-{7:016x}-01"
    status, headers, _ = full.send(head(CONTENT, "x-request-id: two ", f"Traceparent: {trace}") + CONTENT)
    assert (status, headers["x-request-id"], full.judged) == (429, "two", 1)
    until(lambda: bool(caplog.records))  # the response is sent first
    assert [record.getMessage() for record in caplog.records][-1].endswith(f"id=two trace={7:032x}")
    assert full.send(REQUEST)[1]["x-request-id"] not in {"one", "two"}
    assert full.judged == 1


@pytest.mark.parametrize("other", ["X-Request-Timeout: 50", "Accept: */*", "x-Filling: yes"])
def test_another_head_is_judged_by_itself(full: Full, other: str) -> None:
    full.send(REQUEST)
    assert full.send(head(CONTENT, other) + CONTENT)[0] == 429
    assert full.judged == 2


@pytest.mark.parametrize("cut", [1, len(head(CONTENT)) - 2, len(head(CONTENT)), len(REQUEST) - 1])
def test_a_request_in_two_pieces_is_parsed(full: Full, cut: int) -> None:
    full.send(REQUEST)
    with full.service.connect() as connection:
        for piece in (REQUEST[:cut], REQUEST[cut:]):
            connection.sendall(piece)
            time.sleep(0.02)
        assert read(connection)[0] == 429
        connection.sendall(REQUEST)
        assert read(connection)[0] == 429


def test_two_requests_at_once_get_two_responses(full: Full) -> None:
    full.send(REQUEST)
    with full.service.connect() as connection:
        connection.sendall(2 * REQUEST)
        received = b""
        while received.count(b"Overloaded") < 2:
            received += connection.recv(65536)
        assert received.count(b"HTTP/1.1 429") == 2


def test_a_body_is_not_taken_for_a_request(full: Full) -> None:
    full.send(REQUEST)
    with full.service.connect() as connection:
        connection.sendall(head(bytes(10_000)))
        assert read(connection)[0] == 413  # before the body arrives
        connection.sendall(REQUEST)
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_requests_are_served_when_the_queue_has_moved(full: Full) -> None:
    assert full.send(REQUEST)[0] == 429
    full.model.release.set()
    assert [read(connection)[0] for connection in full.admitted] == [200] * len(full.admitted)
    assert full.send(REQUEST)[0] == 200
    assert full.service.model.engine.batcher.waiting == 0
