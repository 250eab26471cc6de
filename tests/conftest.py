"""Small models of every kind, and a client of a service that serves one."""

from collections.abc import Callable, Iterator
from pathlib import Path

# Shapes and types of `model` are checked while its tests run, and only then: this must come before it is imported.
from jaxtyping import install_import_hook

install_import_hook("model", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from app.main import create_app  # noqa: E402
from app.settings import Settings  # noqa: E402
from model.checkpoint import Card, Checkpoint, load, save  # noqa: E402
from model.config import (  # noqa: E402
    BernoulliLikelihood,
    ConvNetwork,
    DiscretizedLikelihood,
    GaussianLikelihood,
    ImageData,
    MLPNetwork,
    ModelConfig,
    VectorData,
)
from model.vae import VAE  # noqa: E402

GREY = ImageData(height=8, width=8)
RGB = ImageData(height=9, width=10, channels=3)
TABLE = VectorData(columns=("age", "height", "weight"), mean=(40.0, 1.7, 70.0), std=(10.0, 0.1, 12.0))
MLP = MLPNetwork(hidden=(16, 8))
CONV = ConvNetwork(channels=(4, 8), blocks=(1, 1))

CONFIGS = {
    "grey-mlp-discretized": ModelConfig(data=GREY, network=MLP, latent=4, likelihood=DiscretizedLikelihood()),
    "grey-conv-gaussian": ModelConfig(data=GREY, network=CONV, latent=4, likelihood=GaussianLikelihood(scale="shared")),
    "rgb-conv-discretized": ModelConfig(
        data=RGB, network=CONV, latent=5, likelihood=DiscretizedLikelihood(components=1)
    ),
    "grey-mlp-bernoulli": ModelConfig(data=GREY, network=MLP, latent=3, likelihood=BernoulliLikelihood()),
    "table-mlp-gaussian": ModelConfig(data=TABLE, network=MLP, latent=2, likelihood=GaussianLikelihood()),
}


def build(name: str, seed: int = 0) -> VAE:
    """A model of this configuration with weights from the seed, large enough to make its outputs vary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = VAE(CONFIGS[name]).eval().requires_grad_(False)
        for weight in vae.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return vae


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model, by the name of its configuration."""
    root = tmp_path_factory.mktemp("models")

    def of(name: str) -> Path:
        if not (root / name).exists():
            save(root / name, build(name), Card(name=name, created="2024-01-01"))
        return root / name

    return of


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    """A small model, loaded."""
    return lambda name: load(saved(name))


@pytest.fixture(scope="session")
def serving(loaded: Callable[[str], Checkpoint]) -> Iterator[Callable[[str], TestClient]]:
    """A client of a service that serves a small model with small limits; one a session for each model."""
    clients: dict[str, TestClient] = {}

    def of(name: str) -> TestClient:
        if name not in clients:
            settings = Settings(
                threads=1, max_rows=64, max_samples=200, max_work=2000, max_body_bytes=1 << 20, max_pixels=10_000
            )
            clients[name] = TestClient(create_app(settings, loaded(name)), raise_server_exceptions=False)
            clients[name].__enter__()
        return clients[name]

    yield of
    for client in clients.values():
        client.__exit__(None, None, None)


@pytest.fixture
def grey(serving: Callable[[str], TestClient]) -> TestClient:
    """A client of a service of 8x8 grey images."""
    return serving("grey-mlp-discretized")
