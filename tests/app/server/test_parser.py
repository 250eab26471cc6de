"""Requests that offer another protocol: the offer changes nothing, however the bytes arrive."""

import time
from collections.abc import Callable

import pytest

from tests.support.services import Running, body, head, read

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
OFFERS = {
    "h2c": H2C,
    "no space": ("connection:upgrade", "upgrade:h2c"),
    "many spaces": ("Connection:  Upgrade  ", "Upgrade: \t h2c \t"),
    "two tokens": ("Connection: Upgrade", "Upgrade: h2c, websocket"),
    "two headers": ("Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c", "Upgrade: TLS/1.0"),
    "tls": ("Connection: Upgrade", "Upgrade: TLS/1.0, HTTP/1.1"),
    "websocket": ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY),
    "unknown": ("Upgrade: \xff/9", "Connection: Upgrade"),
    "empty": ("Upgrade:", "Connection: Upgrade"),
    "no option": ("Upgrade: h2c",),
    "option alone": ("Connection: Upgrade",),
}


def chunked(content: bytes, start: bytes) -> bytes:
    """The request with its body in two chunks."""
    start = start.replace(f"Content-Length: {len(content)}".encode(), b"Transfer-Encoding: chunked")
    return start + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:9], content[9:], b""))


def send(service: Running, *parts: bytes, pause: float = 0.002) -> tuple[int, bytes]:
    """Send the parts in packets of their own. Returns the status and the content of the response."""
    with service.connect() as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        status, _, answer = read(connection)
        connection.sendall(head(body(0.25)) + body(0.25))  # the connection is left usable
        assert read(connection)[0] == 200
    return status, answer


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_changes_nothing(running: Callable[..., Running], offer: str) -> None:
    service, content = running(), body(0.75)
    start = head(content, *OFFERS[offer])
    whole = start + content
    middle = whole.lower().index(b"pgrade")
    expected = send(service, head(content) + content)
    assert expected[0] == 200
    ways = {
        "whole": [whole],
        "body apart": [start, content],
        "head in two": [whole[:middle], whole[middle:]],
        "end of the head apart": [start[:-3], start[-3:] + content[:50], content[50:]],
        "byte by byte": [bytes([byte]) for byte in whole],
        "in chunks": [chunked(content, start)],
        "in chunks, apart": [start.replace(f"Content-Length: {len(content)}".encode(), b"Transfer-Encoding: chunked")],
    }
    ways["in chunks, apart"].append(chunked(content, b""))
    for way, parts in ways.items():
        assert send(service, *parts, pause=0 if len(parts) > 9 else 0.002) == expected, way


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_an_offer_with_expect_100_continue(running: Callable[..., Running], offer: str) -> None:
    content = body()
    with running().connect() as connection:
        connection.sendall(head(content, *OFFERS[offer], "Expect: 100-continue"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        assert read(connection)[0] == 200


def test_offers_among_pipelined_requests(running: Callable[..., Running]) -> None:
    service, levels = running(), (0.1, 0.9, 0.4)
    alone = [send(service, head(body(level)) + body(level))[1] for level in levels]
    offers = (OFFERS["h2c"], (), OFFERS["websocket"])
    requests = [head(body(level), *offer) + body(level) for level, offer in zip(levels, offers, strict=True)]
    with service.connect() as connection:
        connection.sendall(b"".join(requests))
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(alone[-1]):
            part = connection.recv(65536)
            assert part, received
            received += part
    assert [received.index(answer) for answer in alone] == sorted(received.index(answer) for answer in alone)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_offer_on_a_connection_that_is_to_be_closed(running: Callable[..., Running], version: str) -> None:
    content = body()
    with running().connect() as connection:
        connection.sendall(head(content, "Connection: Upgrade, close", "Upgrade: h2c", version=version))
        time.sleep(0.05)
        connection.sendall(content)
        status, headers, _ = read(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_an_offer_without_a_body(running: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    with running().connect() as connection:
        for offer in OFFERS.values():
            connection.sendall(head(b"", *offer, path="/health/ready", method="GET"))
            assert read(connection)[0] == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_connect_is_refused(running: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    service = running()
    with service.connect() as connection:
        connection.sendall(b"CONNECT /encode HTTP/1.1\r\nHost: here\r\n\r\n" + head(body()) + body())
        assert connection.recv(65536).startswith(b"HTTP/1.1 405")
    with service.connect() as connection:
        connection.sendall(b"CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_body_that_holds_an_offer_of_http_2_is_left_as_it_is(running: Callable[..., Running]) -> None:
    offer = b"\r\nUpgrade: h2c\r\n"
    content = body()[: -len(offer)] + offer
    with running().connect() as connection:
        connection.sendall(head(content))
        time.sleep(0.05)  # the body arrives as a chunk of its own
        connection.sendall(content[:40])
        connection.sendall(content[40:] + head(body()) + body())
        status, _, answer = read(connection)
        # Its last values are no pixels, which only a body of full length is refused for.
        assert status == 422, answer
        assert b"out of range" in answer
        assert read(connection)[0] == 200
