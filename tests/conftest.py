"""Small models of every kind, and a client of a service that serves one."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Shapes and types of `model` are checked while its tests run, and only then: this must come before it is imported.
from jaxtyping import install_import_hook

install_import_hook("model", "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from model import gallery  # noqa: E402
from model.checkpoint import Card, Checkpoint, load, save, save_calibration, save_gallery  # noqa: E402
from model.config import ConvNetwork, ImageData, MLPNetwork, ModelConfig, VectorData  # noqa: E402
from model.likelihoods.bernoulli import BernoulliLikelihood  # noqa: E402
from model.likelihoods.discretized import DiscretizedLikelihood  # noqa: E402
from model.likelihoods.gaussian import GaussianLikelihood  # noqa: E402
from model.record import EpochRecord  # noqa: E402
from model.scoring import batches  # noqa: E402
from model.scoring.calibration import Calibration, ScoringConfig  # noqa: E402
from model.vae import VAE  # noqa: E402
from tests.support.services import TRANSPORTS, Client, Transport, client_of  # noqa: E402

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
    "rgb-conv-autoregressive": ModelConfig(
        data=RGB, network=CONV, latent=3, likelihood=DiscretizedLikelihood(components=2, autoregressive=True)
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


#: What the calibrated models are calibrated for.
SCORINGS = (ScoringConfig(1, 0, 0), ScoringConfig(4, 0, 0), ScoringConfig(4, 5, 0))


def reference(name: str, count: int = 120, seed: int = 1) -> np.ndarray[Any, Any]:
    """Samples as a dataset gives them, for a calibration."""
    generator, data = np.random.default_rng(seed), CONFIGS[name].data
    if isinstance(data, ImageData):
        return generator.integers(0, 256, (count, *data.shape), np.uint8)
    return generator.normal(data.mean, data.std, (count, *data.shape)).astype(np.float32)


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A small model that is calibrated for `SCORINGS`, by the name of its configuration, loaded."""
    root = tmp_path_factory.mktemp("calibrated")

    @functools.cache
    def of(name: str) -> Checkpoint:
        vae = build(name)
        save(root / name, vae, Card(name=name, created="2024-01-01"))
        known = Calibration(batches.latent_density(vae, reference(name, 300, seed=2)), {})
        save_calibration(root / name, batches.calibrate(vae, reference(name), SCORINGS, calibration=known))
        return load(root / name)

    return of


#: Of the models with galleries, all alike but for what they look at: three classes, and two epochs of training.
CLASSES = ("cat", "dog", "<b>bird</b>")
LEARNING = tuple(
    EpochRecord(
        epoch=epoch,
        free_energy=100.0 / epoch,
        distortion=90.0 / epoch,
        rate=10.0 / epoch,
        bits_per_dim=None,
        train_free_energy=110.0 / epoch,
        learning_rate=1e-3,
        seconds=1.5,
        samples_per_second=100.0,
    )
    for epoch in (1, 2)
)


def epoch_record(*values: float | None) -> EpochRecord:
    """A record from its values in the order of the fields."""
    return EpochRecord.model_validate(dict(zip(EpochRecord.model_fields, values, strict=True)))


@pytest.fixture(scope="session")
def shown(
    tmp_path_factory: pytest.TempPathFactory, calibrated: Callable[[str], Checkpoint]
) -> Callable[[str], Checkpoint]:
    """A small calibrated model with a gallery of its `reference`, by the name of its configuration, loaded."""
    root = tmp_path_factory.mktemp("shown")

    @functools.cache
    def of(name: str) -> Checkpoint:
        shutil.copytree(calibrated(name).folder, root / name)
        samples = reference(name)
        made = gallery.make(
            calibrated(name).vae,
            samples,
            labels=np.arange(len(samples)) % 3,
            label_names=CLASSES,
            calibration=calibrated(name).calibration,
            learning=LEARNING,
        )
        save_gallery(root / name, made)
        return load(root / name)

    return of


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """How requests reach the service: tests of HTTP run over both."""
    value: Transport = request.param
    return value


def clients_of(find: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Callable[[str], Client]]:
    """Clients by the name of their model, each made when it is first asked for."""
    with ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(client_of(find(name), transport)))


@pytest.fixture(scope="session")
def serving(loaded: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Callable[[str], Client]]:
    """A client of a service that serves a small model with small limits; one a session for each model."""
    yield from clients_of(loaded, transport)


@pytest.fixture(scope="session")
def serving_calibrated(
    calibrated: Callable[[str], Checkpoint], transport: Transport
) -> Iterator[Callable[[str], Client]]:
    """Clients of services of calibrated models."""
    yield from clients_of(calibrated, transport)


@pytest.fixture(scope="session")
def serving_shown(shown: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Callable[[str], Client]]:
    """Clients of services of models with galleries."""
    yield from clients_of(shown, transport)


@pytest.fixture
def grey(serving: Callable[[str], Client]) -> Client:
    """A client of a service of 8x8 grey images."""
    return serving("grey-mlp-discretized")
