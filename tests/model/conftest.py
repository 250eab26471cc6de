"""Data with structure, small enough to train on in a second, and models whose answers are known."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import checkpoint, random
from model.checkpoint import CALIBRATION, CARD, CONFIG, GALLERY, SUMS, WEIGHTS, Provenance
from model.config import MLPNetwork, ModelConfig, VectorData
from model.datasets import Dataset
from model.errors import VAEError
from model.likelihoods import Gaussian
from model.likelihoods.discretized import DiscretizedLikelihood
from model.likelihoods.gaussian import GaussianLikelihood
from model.scoring.calibration import CalibratedScores, Calibration, ScoringConfig
from model.scoring.typicality import TypicalityFeatures
from model.training.loop import Training, TrainingSettings
from model.vae import VAE
from tests.conftest import GREY

Array = NDArray[Any]
Floats = NDArray[np.float64]
DIMS, LATENT = 6, 3
#: The model whose folder is spoiled.
SAVED = "grey-mlp-discretized"


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share: threads that wait for each other cost more than all the arithmetic."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A saved model to spoil."""
    shutil.copytree(saved(SAVED), tmp_path / "model")
    return tmp_path / "model"


def reseal(folder: Path, **changed: bytes) -> None:
    """Replace files and make the digests fit: what a stranger's folder may hold."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SUMS}
    places = {"config": CONFIG, "weights": WEIGHTS, "card": CARD, "calibration": CALIBRATION, "gallery": GALLERY}
    files |= {places[key]: data for key, data in changed.items()}
    for name, data in {**files, SUMS: checkpoint._checksums(files)}.items():
        (folder / name).write_bytes(data)


def provenance(**changes: Any) -> Provenance:
    """Where some model comes from."""
    plain: dict[str, Any] = {
        "dataset": "x.npy",
        "dataset_sha256": "0" * 64,
        "samples": 10,
        "held_out": 1,
        "command": "vae train x.npy",
        "settings": {},
        "epoch": 2,
        "seconds": 1.5,
        "machine": "a machine",
        "versions": {"torch": "2"},
        "held_out_scores": {},
    }
    return Provenance(**plain | changes)


class Memory(Dataset):
    """A dataset that is already in memory, as the model takes it."""

    def __init__(self, samples: Array, labels: Sequence[int] | None = None, source: str = "memory") -> None:
        self.source = source
        self.samples = samples
        self.shape = samples.shape[1:]
        self.columns = tuple(f"c{i}" for i in range(samples.shape[1])) if samples.ndim == 2 else ()
        self.classes = None if labels is None else np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, rows: int) -> Iterator[Array]:
        for start in range(0, len(self.samples), rows):
            yield self.samples[start : start + rows]

    def labels(self) -> NDArray[np.int64] | None:
        return self.classes


def stripes(count: int, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> NDArray[np.uint8]:
    """Pictures of one soft bright stripe, whose place and brightness vary: two numbers decide each picture."""
    generator = np.random.default_rng(seed)
    place, bright = generator.uniform(0, shape[2], (count, 1, 1, 1)), generator.uniform(80, 240, (count, 1, 1, 1))
    distance = np.arange(shape[2]) - place
    clean = np.broadcast_to(bright * np.exp(-np.square(distance)), (count, *shape))
    return np.clip(clean + generator.normal(0, 3, clean.shape), 0, 255).round().astype(np.uint8)


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Three columns in units of their own that one hidden number decides, but for a little noise."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(count, 1))
    clean = np.hstack([40 + 10 * hidden, 1.7 - 0.1 * hidden, 70 + 12 * np.tanh(hidden)])
    return (clean + generator.normal(size=clean.shape) * [1.0, 0.01, 1.2]).astype(np.float32)


def grid(count: int) -> NDArray[np.float32]:
    """The middles of `count` equal parts of (0, 1): uniform numbers without chance."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def uniforms(draws: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return random.uniform(0, range(draws), shape)


def refusal(error: pytest.ExceptionInfo[VAEError]) -> str:
    return str(error.value)


def flipped(data: bytes, place: int) -> bytes:
    """The same bytes with one of them changed."""
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


def saved_array(path: Path, array: Array) -> Path:
    np.save(path, array)
    return path


def chance(count: int, seed: int = 0, latent: int = 2, refined: bool = False, measured: int = 0) -> TypicalityFeatures:
    """Random features of inputs of one kind, with this many measures of complexity."""
    draw = np.random.default_rng(seed)
    distortion, rate = 90 + 10 * draw.normal(size=count), draw.gamma(9, size=count)
    return TypicalityFeatures(
        mean=draw.normal(size=(count, latent)),
        scale_norm=draw.gamma(5, size=count),
        rate=rate,
        residual=draw.gamma(3, size=count),
        complexity=draw.normal(50, 5, size=(count, measured)),
        distortion=distortion,
        free_energy=distortion + rate,
        regret=draw.exponential(0.5, size=count) if refined else None,
    )


def ranked(calibration: Calibration, scoring: ScoringConfig, features: TypicalityFeatures) -> CalibratedScores:
    """P-values of scores by their definition, without a model."""
    reference = calibration.references.get(scoring)
    model = reference.typicality_model if reference else None
    typicality = model.score(features) if model else None
    return calibration.rank(scoring, features.free_energy, features.regret, typicality)


@pytest.fixture(scope="session")
def trained() -> VAE:
    """A model that has seen a few stripes: good enough to know one from what is none."""
    config = ModelConfig(
        data=GREY, network=MLPNetwork(hidden=(32,)), latent=4, likelihood=DiscretizedLikelihood(components=1)
    )
    settings = TrainingSettings(epochs=12, batch_size=32, learning_rate=0.01, average=0.9, held_out=10)
    training = Training(config, settings)
    for _ in training.epochs(stripes(500), stripes(10, seed=1)):
        pass
    return training.average


class PPCA:
    """Probabilistic PCA, x = W z + b + sigma * noise, as a linear VAE whose encoder gives the true posterior.

    With orthogonal columns of W the posterior is factorial (Tipping & Bishop 1999): with M = W'W + sigma^2 I, its mean
    is M^-1 W'(x - b) and its variance sigma^2 M^-1.
    """

    def __init__(self) -> None:
        sigma = 0.4
        draw = torch.Generator().manual_seed(3)
        orthogonal = torch.linalg.qr(torch.randn(DIMS, LATENT, generator=draw, dtype=torch.float64))[0]
        loadings = orthogonal * torch.tensor([2.0, 1.0, 0.3]).double()
        bias = torch.randn(DIMS, generator=draw, dtype=torch.float64)
        m = torch.diag(loadings.T @ loadings) + sigma**2
        weight = loadings.T / m[:, None]

        data = VectorData(columns=tuple("abcdef"), mean=(0,) * DIMS, std=(1,) * DIMS)
        linear = MLPNetwork(hidden=())
        config = ModelConfig(data=data, network=linear, latent=LATENT, likelihood=GaussianLikelihood(scale="shared"))
        self.vae = VAE(config).double().eval().requires_grad_(False)
        self.vae.load_state_dict(
            {
                "encoder.layers.0.weight": torch.cat([weight, torch.zeros_like(weight)]),
                "encoder.layers.0.bias": torch.cat([-weight @ bias, 0.5 * (sigma**2 / m).log()]),
                "decoder.layers.0.weight": loadings,
                "decoder.layers.0.bias": bias,
                # The inverse of softplus, above the floor.
                "head.raw_scale": torch.tensor([math.log(math.expm1(sigma - 0.01))]).double(),
            }
        )
        self.marginal = torch.distributions.MultivariateNormal(
            bias, loadings @ loadings.T + sigma**2 * torch.eye(DIMS, dtype=torch.float64)
        )
        self.x = self.marginal.sample((8,)) * 1.5

    @property
    def nlog_p_x(self) -> Floats:
        nlog: Tensor = -self.marginal.log_prob(self.x)  # type: ignore[no-untyped-call]
        return nlog.double().numpy()

    def wrong(self) -> Gaussian:
        """A factorial Q that is not the posterior."""
        q = self.vae.encode(self.x)
        return Gaussian(
            q.mean + torch.tensor([0.1, -0.2, 0.3]).double(), q.scale * torch.tensor([1.3, 0.8, 1.1]).double()
        )


@pytest.fixture(scope="session")
def ppca() -> PPCA:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PPCA()
