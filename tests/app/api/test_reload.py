"""Reload of a model while the service runs."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from app.api.state import ServedModel
from model.checkpoint import Card, load, save
from tests.support.checkpoints import flipped
from tests.support.models import build
from tests.support.services import Client, HeldModel, Running, Transport, body, client_of, head, read, state_of, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a saved model."""
    save(tmp_path / "model", build("grey-mlp-discretized"), Card(name="first", created="2024-01-01"))
    return tmp_path / "model"


def change(folder: Path, name: str = "grey-mlp-discretized", seed: int = 1) -> str:
    """Save another model in the folder, and return its digest."""
    save(folder, build(name, seed), Card(name="second", created="2024-01-02"))
    return load(folder).digest


def client_for(folder: Path, transport: Transport, **settings: object) -> AbstractContextManager[Client]:
    return client_of(None, transport, model=str(folder), **settings)


def test_the_new_model_serves_all_later_requests(folder: Path, transport: Transport) -> None:
    before = load(folder).digest
    with client_for(folder, transport, reload=True) as client:
        first = client.get("/sample?format=json")
        assert first.headers["x-model-digest"] == before
        after = change(folder)
        old = state_of(client.app).model
        assert client.get("/sample").headers["x-model-digest"] == before
        reloaded = client.post("/model/reload")
        assert reloaded.json() == {"name": "second", "digest": after, "before": before}
        second = client.get("/sample?format=json")
        assert second.headers["x-model-digest"] == after
        assert second.json() != first.json()
        assert client.get("/model").json()["digest"] == after
        infos = [line for line in client.get("/metrics").text.splitlines() if line.startswith("vae_model_info{")]
        assert len(infos) == 1 and after in infos[0]
        assert not old.engine.batcher.alive


def test_a_reload_may_change_the_kind_of_the_model(folder: Path, transport: Transport) -> None:
    with client_for(folder, transport, reload=True) as client:
        assert client.post("/encode", json={"inputs": [[40, 1.7, 70]]}).status_code == 422
        change(folder, "table-mlp-gaussian")
        assert client.post("/model/reload").status_code == 200
        assert client.post("/encode", json={"inputs": [[40, 1.7, 70]]}).status_code == 200
        schema = client.get("/openapi.json").json()["paths"]["/encode"]["post"]["requestBody"]["content"]
        assert "image/png" not in schema


@pytest.mark.parametrize("broken", ["truncated", "flipped", "a pipe", "missing", "not finite"])
def test_a_broken_model_is_refused_with_the_reason_and_the_old_one_stays(
    folder: Path, transport: Transport, broken: str
) -> None:
    before = load(folder).digest
    with client_for(folder, transport, reload=True) as client:
        answer = client.get("/sample").content
        if broken == "truncated":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-10])
        elif broken == "flipped":
            weights = folder / "model.safetensors"
            weights.write_bytes(flipped(weights.read_bytes(), 3000))
        elif broken == "a pipe":
            (folder / "card.json").unlink()
            os.mkfifo(folder / "card.json")
        elif broken == "missing":
            folder.rename(folder.with_name("elsewhere"))
        else:
            vae = build("grey-mlp-discretized")
            next(vae.encoder.parameters()).fill_(3e38)
            save(folder, vae, Card(name="broken", created="2024-01-02"))
        for _ in range(2):
            refused = client.post("/model/reload")
            assert refused.status_code == 500, refused.text
            messages = {"a pipe": "card.json", "missing": "model", "not finite": "not finite"}
            assert messages.get(broken, "model.safetensors") in refused.json()["detail"]
            assert refused.json()["title"] == "Model failed"
            assert refused.headers["x-model-digest"] == before
        assert client.get("/health/ready").status_code == 200
        assert client.get("/sample").content == answer


def test_a_reload_is_refused_unless_the_settings_allow_it(folder: Path, transport: Transport) -> None:
    with client_for(folder, transport) as client:
        refused = client.post("/model/reload")
        assert refused.status_code == 403
        assert "VAE_RELOAD" in refused.json()["detail"]


def test_a_request_finishes_with_the_model_it_began_with(running: Callable[..., Running], folder: Path) -> None:
    service = running(model=str(folder), reload=True)
    held_model = HeldModel(service)
    old = service.model
    with service.connect() as first, service.connect() as second:
        first.sendall(head(body()) + body())
        assert held_model.entered.wait(20)
        after = change(folder)
        second.sendall(head(b"", method="POST", path="/model/reload"))
        status, headers, _ = read(second)
        assert status == 200
        assert headers["x-model-digest"] != after, "it was asked of the old one"
        second.sendall(head(body()) + body())
        status, headers, new = read(second)
        assert (status, headers["x-model-digest"]) == (200, after)
        assert old.engine.batcher.alive
        held_model.release.set()
        status, headers, answer = read(first)
        assert (status, headers["x-model-digest"]) == (200, old.digest.decode())
        assert answer != new
        until(lambda: not old.engine.batcher.alive)
        first.sendall(head(body()) + body())
        assert read(first)[2] == new


def test_a_reload_whose_client_leaves_is_completed(
    running: Callable[..., Running], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = running(model=str(folder), reload=True)
    state, load_model, entered, release = service.state, service.state.load, threading.Event(), threading.Event()
    assert load_model is not None

    def load_when_released() -> ServedModel:
        entered.set()
        assert release.wait(20)
        return load_model()

    monkeypatch.setattr(state, "load", load_when_released)
    old, after = state.model, change(folder)
    with service.connect() as connection:
        connection.sendall(head(b"", method="POST", path="/model/reload"))
        assert entered.wait(20)
    until(lambda: not service.server.server_state.tasks)
    release.set()
    until(lambda: state.model.digest.decode() == after)
    until(lambda: not old.engine.batcher.alive)


def test_sighup_reloads_the_model(folder: Path) -> None:
    import httpx2

    from tests.support.processes import served

    with served(folder) as (address, process):
        after = change(folder)
        process.send_signal(signal.SIGHUP)
        until(lambda: httpx2.get(f"{address}/sample").headers["x-model-digest"] == after)
        (folder / "config.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("still serving the previous model" in line for line in lines)
        assert httpx2.get(f"{address}/sample").headers["x-model-digest"] == after
