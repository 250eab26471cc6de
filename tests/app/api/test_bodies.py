"""Reading bodies: limits, slow clients, and closed connections."""

import asyncio
import base64
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from app.api.bodies import RATE_SECONDS, UNBUDGETED_BYTES, UNBUDGETED_IMAGE_BYTES, Body, BodyLimits, ByteBudget
from app.api.errors import BodyTooSlow, ClientLeft, LimitExceeded, Overloaded
from app.codecs import images
from app.middleware.request_state import run_cleanups
from model.checkpoint import Checkpoint
from model.images import fit_image
from tests.support.services import Transport, client_of, state_of


def request(*messages: dict[str, Any]) -> Request:
    """A request whose body arrives as these messages, and then not at all."""
    remaining = list(messages)

    async def receive() -> dict[str, Any]:
        if not remaining:
            await asyncio.sleep(60)
        return remaining.pop(0)

    return Request({"type": "http", "headers": [], "method": "POST", "path": "/", "state": {"cleanups": []}}, receive)


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def read(*messages: dict[str, Any]) -> bytes:
    return asyncio.run(Body(request(*messages), BodyLimits(8, 0.05, ByteBudget(100))).receive())


def test_chunks_of_a_body_are_joined() -> None:
    assert read(part(b"abc"), part(b""), part(b"def", more=False)) == b"abcdef"


def test_a_client_that_stops_sending() -> None:
    with pytest.raises(BodyTooSlow, match=r"within 0\.05 s"):
        read(part(b"abc"))


def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientLeft):
        read(part(b"abc"), {"type": "http.disconnect"})


def test_the_limit_is_exact_to_the_byte() -> None:
    assert read(part(b"x" * 8, more=False)) == b"x" * 8
    with pytest.raises(LimitExceeded):
        read(part(b"x" * 9, more=False))


def test_bytes_that_were_not_announced_are_budgeted_as_they_arrive() -> None:
    budget, large = ByteBudget(1 << 20), bytes(3 * UNBUDGETED_BYTES)
    messages = request(part(b"x"), part(large), part(b"x", more=False))
    body = Body(messages, BodyLimits(1 << 20, 1, budget))
    content = asyncio.run(body.receive())
    assert content == b"x" + large + b"x"
    assert budget.acquired >= len(content)
    run_cleanups(messages.state.cleanups)
    assert budget.acquired == 0


def test_a_body_that_is_alone_may_exceed_the_budget() -> None:
    budget, large = ByteBudget(UNBUDGETED_BYTES), bytes(2 * UNBUDGETED_BYTES)
    messages = request(part(large), part(large), part(large, more=False))
    content = asyncio.run(Body(messages, BodyLimits(1 << 20, 1, budget)).receive())
    assert len(content) == 3 * len(large)
    with pytest.raises(Overloaded):
        budget.acquire(1)
    run_cleanups(messages.state.cleanups)
    assert budget.acquired == 0


class TestByteBudget:
    def test_refuses_a_body_that_does_not_fit(self) -> None:
        budget = ByteBudget(100)
        budget.acquire(60)
        budget.acquire(40)
        with pytest.raises(Overloaded):
            budget.acquire(1)
        budget.release(40)
        budget.acquire(1)
        budget.release(61)
        assert budget.acquired == 0

    def test_admits_any_body_while_the_budget_is_free(self) -> None:
        budget = ByteBudget(1)
        budget.acquire(100)
        with pytest.raises(Overloaded):
            budget.acquire(1)

    def test_estimates_the_wait_from_the_rate_of_release(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: now)
        budget = ByteBudget(300_000)
        for _ in range(50):  # 100,000 a second
            now += 0.2
            budget.acquire(20_000)
            budget.release(20_000)
        budget.acquire(300_000)
        with pytest.raises(Overloaded) as refused:
            budget.acquire(20_000)
        assert refused.value.retry_after in {3, 4}
        now += 10 * RATE_SECONDS
        with pytest.raises(Overloaded, match="retry after 60 s"):
            budget.acquire(20_000)

    def test_bounds_the_images_that_are_decoded_at_once(self) -> None:
        budget, large = ByteBudget(10 << 20), 4 << 20
        with budget.hold_image(large), budget.hold_image(large):
            assert budget.acquired == 2 * large
            with pytest.raises(Overloaded) as refused, budget.hold_image(large):
                pass
            assert refused.value.retry_after == 1, "an image is decoded in less than a second"
            with pytest.raises(Overloaded, match="retry after 1 s"):
                budget.acquire(large)
            with budget.hold_image(UNBUDGETED_IMAGE_BYTES):
                assert budget.acquired == 2 * large
        assert budget.acquired == 0
        with pytest.raises(RuntimeError), budget.hold_image(large):
            raise RuntimeError("damaged")
        assert budget.acquired == 0

    def test_decodes_one_image_of_any_size_beside_bodies(self) -> None:
        budget = ByteBudget(1 << 20)
        budget.acquire(1 << 20)
        with budget.hold_image(1 << 30), pytest.raises(Overloaded), budget.hold_image(2 << 20):
            pass
        assert budget.acquired == 1 << 20

    def test_loses_no_byte_between_threads(self) -> None:
        budget = ByteBudget(1 << 40)

        def hold() -> None:
            for _ in range(2000):
                with budget.hold_image(UNBUDGETED_IMAGE_BYTES + 1):
                    pass

        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert budget.acquired == 0


def large_picture(kind: str = "PNG", side: int = 1000) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return {"content": file.getvalue(), "headers": {"Content-Type": f"image/{kind.lower()}"}}


def test_many_large_pictures_at_once_are_refused_before_they_fill_the_memory(
    loaded: Callable[[str], Checkpoint], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def held(*arguments: Any, **options: Any) -> Any:
        entered.release()
        assert release.wait(20)
        return fit_image(*arguments, **options)

    monkeypatch.setattr(images, "fit_image", held)
    picture = large_picture()  # 5 MB in memory
    with (
        client_of(loaded("rgb-conv-discretized"), transport, queue_bytes=8 << 20, max_pixels=1 << 20) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        budget = state_of(client.app).body_limits.budget
        first = pool.submit(client.post, "/encode", **picture)
        assert entered.acquire(timeout=20)
        assert 5_000_000 <= budget.acquired <= 8 << 20
        encoded = base64.b64encode(picture["content"]).decode()
        others: list[dict[str, Any]] = [{"json": {"inputs": [encoded]}}, {"files": [("inputs", picture["content"])]}]
        for request in (picture, *others):
            refused = client.post("/encode", **request)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        small = large_picture("PNG", 100)
        release.set()
        assert first.result().status_code == 200
        assert client.post("/encode", **small).status_code == 200
        assert client.post("/encode", **picture).status_code == 200
        assert budget.acquired == 0


CONTENT = b" " * (2 * UNBUDGETED_BYTES) + b'{"inputs": [[40, 1.7, 70]]}'


def test_the_budget_is_released_after_each_request(loaded: Callable[[str], Checkpoint], transport: Transport) -> None:
    with client_of(loaded("table-mlp-gaussian"), transport) as client:
        for content, status in ((CONTENT, 200), (CONTENT[:-1], 400)):
            answer = client.post("/encode", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status
            assert state_of(client.app).body_limits.budget.acquired == 0


def test_the_budget_is_released_below_a_root_path(loaded: Callable[[str], Checkpoint]) -> None:
    with client_of(loaded("table-mlp-gaussian")) as client:
        below = TestClient(client.app, root_path="/vae")
        answer = below.post("/vae/encode", content=CONTENT, headers={"content-type": "application/json"})
        assert answer.status_code == 200
        assert state_of(client.app).body_limits.budget.acquired == 0


def test_a_cleanup_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("broken")

    run_cleanups([lambda: done.append("first"), fail, lambda: done.append("last")])
    assert done == ["last", "first"]
    assert "a cleanup of a request failed" in caplog.text
