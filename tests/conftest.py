"""Saved, calibrated and served small models."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# Tests run in as many processes as there are cores. It must be set before the first import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests check shapes and types of `model` at run time. The hook must be installed before the first import of `model`.
from jaxtyping import install_import_hook

install_import_hook("model", "beartype.beartype")
pytest.register_assert_rewrite("tests.support")

import numpy as np  # noqa: E402

from model import gallery  # noqa: E402
from model.checkpoint import Card, Checkpoint, load, save, save_calibration, save_gallery  # noqa: E402
from model.scoring import batches  # noqa: E402
from model.scoring.calibration import Calibration  # noqa: E402
from tests.support.models import CLASSES, LEARNING, SCORINGS, build, reference  # noqa: E402
from tests.support.services import TRANSPORTS, Client, Transport, client_of  # noqa: E402


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that saves a small model and returns its folder, by the name of its configuration."""
    root = tmp_path_factory.mktemp("models")

    def of(name: str) -> Path:
        if not (root / name).exists():
            save(root / name, build(name), Card(name=name, created="2024-01-01"))
        return root / name

    return of


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    """A function that loads a small model, by the name of its configuration."""
    return lambda name: load(saved(name))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A function that loads a small model calibrated for `SCORINGS`, by the name of its configuration."""
    root = tmp_path_factory.mktemp("calibrated")

    @functools.cache
    def of(name: str) -> Checkpoint:
        vae = build(name)
        save(root / name, vae, Card(name=name, created="2024-01-01"))
        density = Calibration(batches.latent_density(vae, reference(name, 300, seed=2)), {})
        save_calibration(root / name, batches.calibrate(vae, reference(name), SCORINGS, calibration=density))
        return load(root / name)

    return of


@pytest.fixture(scope="session")
def shown(
    tmp_path_factory: pytest.TempPathFactory, calibrated: Callable[[str], Checkpoint]
) -> Callable[[str], Checkpoint]:
    """A function that loads a calibrated model with a gallery of its `reference`, by the name of its configuration."""
    root = tmp_path_factory.mktemp("shown")

    @functools.cache
    def of(name: str) -> Checkpoint:
        shutil.copytree(calibrated(name).folder, root / name)
        samples = reference(name)
        content = gallery.make(
            calibrated(name).vae,
            samples,
            labels=np.arange(len(samples)) % 3,
            label_names=CLASSES,
            calibration=calibrated(name).calibration,
            learning=LEARNING,
        )
        save_gallery(root / name, content)
        return load(root / name)

    return of


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Transport of requests to the service. Tests of HTTP run over both."""
    value: Transport = request.param
    return value


def clients_of(find: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Callable[[str], Client]]:
    """A function that returns the client of a model, by its name; started at its first use."""
    with ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(client_of(find(name), transport)))


@pytest.fixture(scope="session")
def serving(loaded: Callable[[str], Checkpoint], transport: Transport) -> Iterator[Callable[[str], Client]]:
    """Clients of services of small models with small limits."""
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
