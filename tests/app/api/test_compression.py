"""gzip in both directions over HTTP."""

import asyncio
import gzip
import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from app.api.bodies import Body, BodyLimits, ByteBudget
from app.api.errors import LimitExceeded, Overloaded
from app.codecs import compression
from app.middleware.request_state import run_cleanups
from model.checkpoint import Checkpoint
from tests.support.requests import Serving, inputs, npy
from tests.support.services import Running, Transport, body, client_of, head, read

GREY = "grey-mlp-discretized"
PLAIN = {"Accept-Encoding": "identity"}


def zipped(request: dict[str, Any], coding: str = "gzip") -> dict[str, Any]:
    headers = {**request["headers"], "Content-Encoding": coding}
    return {"content": gzip.compress(request["content"]), "headers": headers}


def as_json(name: str, count: int) -> dict[str, Any]:
    x = (inputs(name, count) / 255).tolist()
    return {"content": json.dumps({"inputs": x}).encode(), "headers": {"Content-Type": "application/json"}}


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_a_gzip_body_is_answered_as_the_unencoded_one(serving: Serving, count: int, coding: str) -> None:
    client = serving(GREY)
    for request in (npy(inputs(GREY, count)), as_json(GREY, count)):
        plain, answer = client.post("/encode", **request), client.post("/encode", **zipped(request, coding))
        assert answer.status_code == 200, answer.text
        assert answer.json() == plain.json()
    identity = {**npy(inputs(GREY, 1))["headers"], "Content-Encoding": "identity"}
    assert client.post("/encode", content=npy(inputs(GREY, 1))["content"], headers=identity).status_code == 200


def test_an_unsupported_encoding_is_refused_with_the_supported_one(serving: Serving) -> None:
    client = serving(GREY)
    for coding in ("br", "deflate", "gzip, gzip", "compress"):
        refused = client.post("/encode", **zipped(npy(inputs(GREY, 1)), coding))
        assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip")
        assert "send the body as gzip" in refused.json()["detail"]
    refused = client.post("/encode", content=b"x", headers={"Content-Type": "text/plain"})
    assert (refused.status_code, "accept-encoding" in refused.headers) == (415, False)


def test_repeated_headers_are_several_codings(running: Callable[..., Running]) -> None:
    content = gzip.compress(body())
    with running(GREY).connect() as connection:
        connection.sendall(head(content, "Content-Encoding: gzip", "Content-Encoding: gzip") + content)
        assert read(connection)[0] == 415
        connection.sendall(head(content, "Content-Encoding: gzip") + content)
        assert read(connection)[0] == 200


def request(content: bytes) -> Request:
    """A request with this gzip body."""
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-encoding", b"gzip")]}
    return Request({**scope, "state": {"cleanups": []}, "vae.body": content})


def test_a_bomb_is_refused_as_soon_as_the_limit_is_passed() -> None:
    budget = ByteBudget(1 << 30)
    bomb = request(gzip.compress(bytes(1 << 28)))
    with pytest.raises(LimitExceeded, match="inflates to more than the 3,000,000 bytes"):
        asyncio.run(Body(bomb, BodyLimits(3_000_000, 1, budget)).receive())
    assert budget.acquired <= 3_000_000 + (1 << 19)
    run_cleanups(bomb.state.cleanups)
    assert budget.acquired == 0


def test_the_limit_of_an_inflated_body_is_exact_to_the_byte() -> None:
    for size in (5000, 1 << 20, (1 << 20) + (1 << 16)):
        whole = gzip.compress(bytes(size))
        assert asyncio.run(Body(request(whole), BodyLimits(size, 1, ByteBudget(1 << 30))).receive()) == bytes(size)
        with pytest.raises(LimitExceeded):
            asyncio.run(Body(request(whole), BodyLimits(size - 1, 1, ByteBudget(1 << 30))).receive())


def test_inflated_bytes_are_budgeted() -> None:
    budget, size = ByteBudget(6 << 20), 4 << 20
    first, second = (request(gzip.compress(bytes(size))) for _ in range(2))
    asyncio.run(Body(first, BodyLimits(1 << 23, 1, budget)).receive())
    assert budget.acquired >= size
    with pytest.raises(Overloaded):
        asyncio.run(Body(second, BodyLimits(1 << 23, 1, budget)).receive())
    for done in (first, second):
        run_cleanups(done.state.cleanups)
    assert budget.acquired == 0


def test_a_large_body_is_inflated_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    decompress = compression.Inflater.advance

    def noted(self: compression.Inflater, size: int) -> bool:
        threads.add(threading.current_thread().name)
        return decompress(self, size)

    monkeypatch.setattr(compression.Inflater, "advance", noted)
    asyncio.run(Body(request(gzip.compress(bytes(1000))), BodyLimits(1 << 23, 1, ByteBudget(1 << 30))).receive())
    assert threads == {threading.main_thread().name}
    asyncio.run(Body(request(gzip.compress(bytes(1 << 22))), BodyLimits(1 << 23, 1, ByteBudget(1 << 30))).receive())
    assert len(threads) > 1


def raw(client: Any, path: str, headers: dict[str, str]) -> tuple[Any, bytes]:
    """A response, and its body as it was sent."""
    with client.stream("GET", path, headers=headers) as response:
        return response, b"".join(response.iter_raw())


def test_large_json_is_gzip_where_the_client_accepts_it(serving: Serving) -> None:
    client = serving(GREY)
    path = "/sample?n=64&seed=1"  # 64 x (64 + 4) numbers
    plain, expected = raw(client, path, PLAIN)
    assert "content-encoding" not in plain.headers
    for header in ("gzip", "*", "br;q=0.9, gzip;q=0.5", "x-gzip"):
        response, content = raw(client, path, {"Accept-Encoding": header})
        assert response.headers["content-encoding"] == "gzip"
        assert int(response.headers["content-length"]) == len(content) < len(expected) * 0.6
        assert gzip.decompress(content) == expected
        assert response.headers["vary"] == plain.headers["vary"] == "accept, accept-encoding"
    for header in ("gzip;q=0", "*;q=0", "br", "", "identity, gzip;q=0.3"):
        response, content = raw(client, path, {"Accept-Encoding": header})
        assert "content-encoding" not in response.headers
        assert content == expected


def test_small_json_npz_and_png_are_not_compressed_but_say_what_they_vary_by(serving: Serving) -> None:
    client = serving(GREY)
    for path in ("/sample?n=1", "/sample?n=64&format=npz", "/sample?n=64&format=png"):
        response, content = raw(client, path, {"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers, path
        assert int(response.headers["content-length"]) == len(content)
        assert response.headers["vary"] == "accept, accept-encoding"
    assert client.get("/model").headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("path", ["/model/gallery", "/model/gallery?format=png"])
def test_each_coding_of_the_gallery_has_a_tag_of_its_own(serving_shown: Serving, path: str) -> None:
    client = serving_shown(GREY)
    forms = {coding: raw(client, path, {"Accept-Encoding": coding}) for coding in ("identity", "gzip")}
    tags = {coding: response.headers["etag"] for coding, (response, _) in forms.items()}
    compressed = path == "/model/gallery"
    assert (tags["gzip"] != tags["identity"]) == compressed
    assert ("content-encoding" in forms["gzip"][0].headers) == compressed
    content = forms["gzip"][1]
    assert (gzip.decompress(content) if compressed else content) == forms["identity"][1]
    for coding, tag in tags.items():
        for match in (tag, f"W/{tag}", f'"other", W/{tag}', "*"):
            response, content = raw(client, path, {"Accept-Encoding": coding, "If-None-Match": match})
            assert (response.status_code, content) == (304, b"")
            assert response.headers["etag"] == tag
            assert response.headers["vary"] == "accept, accept-encoding"
            assert "content-encoding" not in response.headers
        other = tags["gzip" if coding == "identity" else "identity"]
        response, _ = raw(client, path, {"Accept-Encoding": coding, "If-None-Match": other})
        assert response.status_code == (200 if compressed else 304)


@pytest.fixture(scope="module")
def wide(loaded: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Any]:
    with client_of(loaded(GREY), transport, max_rows=1024, max_body_bytes=1 << 22) as client:
        yield client


def test_both_directions_at_once(wide: Any) -> None:
    x = np.tile(inputs(GREY, 1), (1000, 1, 1))
    file = io.BytesIO()
    np.save(file, x)
    headers = {"Content-Type": "application/x-npy", "Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    answer = wide.post("/reconstruct", content=gzip.compress(file.getvalue()), headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert np.array(answer.json()["outputs"]).shape == (1000, 8, 8)
