"""Reading bodies: slow clients, and those who leave."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from app.bodies import read_body
from app.errors import BodyTooSlow, Malformed, TooLarge
from app.watch import Watch


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
    return asyncio.run(read_body(request(*messages), Watch(), max_bytes=8, timeout=0.05))


def test_parts_are_joined() -> None:
    assert read(part(b"abc"), part(b""), part(b"def", more=False)) == b"abcdef"


def test_a_client_that_stops_sending() -> None:
    with pytest.raises(BodyTooSlow, match=r"within 0\.05 s"):
        read(part(b"abc"))


def test_a_client_that_leaves() -> None:
    with pytest.raises(Malformed, match="left"):
        read(part(b"abc"), {"type": "http.disconnect"})


def test_the_limit_is_on_the_byte() -> None:
    assert read(part(b"x" * 8, more=False)) == b"x" * 8
    with pytest.raises(TooLarge):
        read(part(b"x" * 9, more=False))
