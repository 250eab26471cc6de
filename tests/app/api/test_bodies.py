"""Reading bodies: slow clients, and those who leave."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from app.api.watch import ClientLeft
from starlette.requests import Request
from starlette.testclient import TestClient

from app.api.bodies import MEMORY, SMALL, Bodies, Room, read_body
from app.api.problems import BodyTooSlow, Crowded
from app.codecs.errors import TooLarge
from model.checkpoint import Checkpoint
from tests.conftest import client_of


def request(*messages: dict[str, Any]) -> Request:
    """A request whose body arrives as these messages, and then not at all."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def read(*messages: dict[str, Any]) -> bytes:
    return asyncio.run(read_body(request(*messages), Bodies(8, 0.05, Room(100)), lambda _: None))


def test_parts_are_joined() -> None:
    assert read(part(b"abc"), part(b""), part(b"def", more=False)) == b"abcdef"


def test_a_client_that_stops_sending() -> None:
    with pytest.raises(BodyTooSlow, match=r"within 0\.05 s"):
        read(part(b"abc"))


def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientLeft):
        read(part(b"abc"), {"type": "http.disconnect"})


def test_the_limit_is_on_the_byte() -> None:
    assert read(part(b"x" * 8, more=False)) == b"x" * 8
    with pytest.raises(TooLarge):
        read(part(b"x" * 9, more=False))


def test_room_is_taken_for_what_was_not_announced_as_it_comes() -> None:
    taken: list[int] = []
    large = bytes(3 * SMALL)
    messages = request(part(b"x"), part(large), part(b"x", more=False))
    body = asyncio.run(read_body(messages, Bodies(1 << 20, 1, Room(1 << 20)), taken.append))
    assert body == b"x" + large + b"x"
    assert sum(taken) >= len(body)


class TestRoom:
    def test_is_not_for_more_than_there_is_and_small_bodies_always_have_some(self) -> None:
        room = Room(10 * SMALL)
        first, second = room.take(6 * SMALL), room.take(4 * SMALL)
        with pytest.raises(Crowded):
            room.take(SMALL + 1)
        assert room.take(SMALL) == 0
        room.free(second)
        assert room.take(SMALL + 1) == SMALL + 1
        room.free(first)
        room.free(SMALL + 1)
        assert room.taken == 0

    def test_lets_any_body_in_that_finds_it_empty(self) -> None:
        room = Room(1)
        assert room.take(100 * SMALL) == 100 * SMALL
        with pytest.raises(Crowded):
            room.take(SMALL + 1)

    def test_says_when_to_come_again_by_how_fast_it_was_freed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: now)
        room = Room(30 * SMALL)
        for _ in range(50):  # 10 times SMALL a second
            now += 0.2
            room.free(room.take(2 * SMALL))
        room.take(30 * SMALL)
        with pytest.raises(Crowded) as refused:
            room.take(2 * SMALL)
        assert refused.value.retry_after in {3, 4}
        now += 10 * MEMORY
        with pytest.raises(Crowded, match="come again in 60 s"):
            room.take(2 * SMALL)


def test_room_is_freed_whichever_way_a_request_comes(loaded: Callable[[str], Checkpoint]) -> None:
    body = b" " * (2 * SMALL) + b'{"inputs": [[40, 1.7, 70]]}'
    for path in ("", "/vae"):
        app: Any = client_of(loaded("table-mlp-gaussian")).app
        with TestClient(app, root_path=path) as client:
            for content, status in ((body, 200), (body[:-1], 400)):
                answer = client.post(f"{path}/encode", content=content, headers={"content-type": "application/json"})
                assert answer.status_code == status
                assert app.frame.process.bodies.room.taken == 0
                assert app.frame.service.requests == 0
