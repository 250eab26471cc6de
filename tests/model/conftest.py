"""One thread for torch, a checkpoint to damage, a trained model and a model with scores in closed form."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from model.config import MLPNetwork, ModelConfig
from model.likelihoods.discretized import DiscretizedLikelihood
from model.training.loop import Training, TrainingSettings
from model.vae import VAE
from tests.support.checkpoints import SAVED
from tests.support.data import stripes
from tests.support.models import GREY, PPCA


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: small models run slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a saved model."""
    shutil.copytree(saved(SAVED), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def trained() -> VAE:
    """A model trained on stripes, good enough to tell them from outliers."""
    config = ModelConfig(
        data=GREY, network=MLPNetwork(hidden=(32,)), latent=4, likelihood=DiscretizedLikelihood(components=1)
    )
    settings = TrainingSettings(epochs=12, batch_size=32, learning_rate=0.01, average=0.9, held_out=10)
    training = Training(config, settings)
    for _ in training.epochs(stripes(500), stripes(10, seed=1)):
        pass
    return training.average


@pytest.fixture(scope="session")
def ppca() -> PPCA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PPCA()
