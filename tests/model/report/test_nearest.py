"""Samples beside their nearest training images."""

import numpy as np
import pytest

from model.report import nearest
from model.vae import to_tensor
from tests.support.data import stripes
from tests.support.models import build

SHAPE = (3, 9, 10)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COUNT", 20)


def test_the_images_are_the_nearest_of_all() -> None:
    vae, training = build("rgb-conv-discretized"), stripes(700, SHAPE)
    found = nearest.find(vae, training, stripes(30, SHAPE, seed=5))
    images = to_tensor(training).numpy().reshape(700, -1)
    assert len(found.samples) == len(found.images) == nearest.SHOWN
    for sample, image, distance in zip(found.samples, found.images, found.distances, strict=False):
        expected = np.sqrt(np.square(images - sample.reshape(-1)).mean(axis=1))
        assert distance == pytest.approx(expected.min(), abs=1e-3)
        assert np.sqrt(np.square(image - sample).mean()) == pytest.approx(expected.min(), abs=1e-3)


def test_samples_that_were_trained_on_are_at_no_distance() -> None:
    vae, others = build("rgb-conv-discretized"), stripes(30, SHAPE, seed=5)
    copied = vae.decode(vae.sample_prior(20, nearest.SEED)).mean.numpy()
    found = nearest.find(vae, np.concatenate([to_tensor(stripes(600, SHAPE)).numpy(), copied]), others)
    assert found.distances.max() < 2e-3
    assert len(found.held_out_distances) == 20
    np.testing.assert_allclose(found.images, found.samples, atol=1e-5)
