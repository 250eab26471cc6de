"""The fit of a prior: it finds structure, keeps the best epoch, resumes exactly, and pays only where it pays."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.errors import ConfigError, TrainingError
from model.prior import MAX_LABELS, FlowPrior, FlowPriorConfig, Label, Labels, Prior, StandardPrior
from model.record import PriorRecord
from model.scoring.batches import score_batch
from model.scoring.calibration import ScoringConfig
from model.training.gain import Gain
from model.training.journal import Journal
from model.training.loop import TrainingSettings
from model.training.prior import (
    LearnedLabels,
    Posteriors,
    PriorFit,
    PriorName,
    PriorSettings,
    choose_prior,
    cross_entropies,
    cross_entropies_given,
    posteriors,
    with_flow,
    with_labels,
)
from model.training.splits import Split
from model.vae import to_tensor
from tests.support.data import Memory, rows
from tests.support.models import build, reference

FLOW = FlowPriorConfig(couplings=4, hidden=(32, 32), label_couplings=2, label_hidden=32)


def settings(**changes: Any) -> PriorSettings:
    return PriorSettings(**{"flow": FLOW, "epochs": 4, "batch_size": 50, "average": 0.9} | changes)


def crescent(count: int, seed: int = 0) -> Posteriors:
    """Narrow Q whose means lie on a crescent, which no Gaussian resembles."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=count)
    mean = np.stack([first, np.square(first) - 1 + 0.1 * draw.normal(size=count)], axis=1)
    return np.concatenate([mean, np.full((count, 2), 0.1)], axis=1).astype(np.float32)


def fitted(train: Posteriors, held_out: Posteriors, **changes: Any) -> tuple[PriorFit, list[PriorRecord]]:
    fit = PriorFit(2, settings(**changes))
    fit.start_from(train)
    return fit, list(fit.epochs(train, held_out))


def gain(prior: Prior, other: Prior, held_out: Posteriors) -> Gain:
    """The gain of one prior against another."""
    return Gain.of(cross_entropies(other, held_out, 0), cross_entropies(prior, held_out, 0))


def test_a_flow_finds_what_no_gaussian_has() -> None:
    train, held_out = crescent(1000), crescent(500, seed=1)
    start = PriorFit(2, settings())
    start.start_from(train)
    fit, records = fitted(train, held_out, epochs=25, learning_rate=5e-3)
    gaussian = cross_entropies(start.average, held_out, 0).mean()
    assert records[-1].cross_entropy < gaussian - 0.5
    saved, fresh = gain(fit.fitted(), StandardPrior(), held_out), gain(fit.fitted(), start.average, held_out)
    assert saved.clear and fresh.clear
    standard = cross_entropies(StandardPrior(), held_out, 0).mean()
    assert saved.nats == pytest.approx(standard - fit.best.cost, abs=1e-6)
    assert fresh.nats == pytest.approx(gaussian - fit.best.cost, abs=1e-6)
    assert not gain(start.average, fit.fitted(), held_out).clear


def test_samples_of_a_fitted_flow_look_like_the_latents() -> None:
    train = crescent(1000)
    flow = fitted(train, crescent(300, seed=1), epochs=25, learning_rate=5e-3)[0].fitted()
    z = flow.to_latent(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)))
    residual = z[:, 1] - (z[:, 0].square() - 1)
    assert float(residual.abs().median()) < 0.3
    plain = (
        FlowPrior(2, FLOW)
        .requires_grad_(False)
        .to_latent(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)))
    )
    assert float((plain[:, 1] - (plain[:, 0].square() - 1)).abs().median()) > 0.9


def test_latents_of_the_standard_prior_gain_nothing() -> None:
    draw = np.random.default_rng(0)
    mean = draw.normal(size=(1500, 2)) * math.sqrt(1 - 0.25)
    normal = np.concatenate([mean, np.full((1500, 2), 0.5)], axis=1).astype(np.float32)
    fit, _ = fitted(normal[:1000], normal[1000:1250], epochs=10)
    assert not gain(fit.fitted(), StandardPrior(), normal[1250:]).clear


def test_a_flow_with_labels_tells_them_apart() -> None:
    """Two crescents, one above the other, of which the lower one has three quarters of the samples."""

    def labelled(count: int, seed: int) -> tuple[Posteriors, Labels]:
        q, labels = crescent(count, seed), (np.random.default_rng(seed + 2).random(count) < 0.25).astype(np.int64)
        q[:, 1] += 8 * labels
        return q, labels

    (train, labels), (held_out, held_out_labels) = labelled(2000, 0), labelled(500, 1)
    flow_config = FLOW.model_copy(
        update={"labels": (Label(name="below", probability=0.75), Label(name="above", probability=0.25))}
    )
    fit, records = fitted(with_labels(train, labels), held_out, flow=flow_config, epochs=25, learning_rate=5e-3)
    flow = fit.fitted()
    right = cross_entropies_given(flow, held_out, held_out_labels, 0)
    assert right.mean() < records[-1].cross_entropy < right.mean() + math.log(4)
    assert (right < cross_entropies_given(flow, held_out, 1 - held_out_labels, 0)).mean() > 0.9
    # Held-out samples whose label is not known to the prior do not count.
    known = np.where(held_out_labels == 1, -1, 0)
    assert len(cross_entropies_given(flow, held_out, known, 0)) == (held_out_labels == 0).sum()
    epsilon = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    below, above = (flow.to_latent(flow.place(epsilon, np.full(1000, label))) for label in (0, 1))
    assert float((below[:, 1] - (below[:, 0].square() - 1)).abs().median()) < 0.5
    assert float((above[:, 1] - 8 - (above[:, 0].square() - 1)).abs().median()) < 0.5
    # In training the cost is that of the mixture too.
    assert records[-1].train_cross_entropy == pytest.approx(records[-1].cross_entropy, abs=0.3)


def some_split(labels: list[int], held_out: list[int], names: tuple[str, ...] | None = None) -> Split:
    train, validation = np.zeros((len(labels), 2), np.float32), np.zeros((len(held_out), 2), np.float32)
    return Split(
        train, validation, np.array(held_out), train[:0], np.array([], np.int64), np.array(labels), label_names=names
    )


def test_labels_are_those_of_training_samples() -> None:
    names = ("a", "b", "c", "d", "e", "f", "g", "h")
    learned = LearnedLabels.of(some_split([7, 3, 3, 3], [3, 5, 7], names))
    assert learned is not None
    assert [(label.name, label.probability) for label in learned.labels] == [("d", 0.75), ("h", 0.25)]
    assert learned.train.tolist() == [1, 0, 0, 0]
    assert learned.validation.tolist() == [0, -1, 1]
    unnamed = LearnedLabels.of(some_split([7, 3], [3]))
    assert unnamed is not None and [label.name for label in unnamed.labels] == ["3", "7"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [([1, 1, 1], None), (list(range(MAX_LABELS + 1)), None), ([0, 1], ("same", "same"))],
    ids=["one label", "too many", "equal names"],
)
def test_labels_that_cannot_be_told_apart_are_left_out(labels: list[int], names: tuple[str, ...] | None) -> None:
    assert LearnedLabels.of(some_split(labels, [0], names)) is None


def test_the_best_epoch_is_kept() -> None:
    # So few samples that later epochs overfit.
    fit, records = fitted(crescent(20), crescent(300, seed=1), epochs=60, batch_size=20, learning_rate=2e-2)
    best = min(records, key=lambda record: record.cross_entropy)
    assert best.epoch < 60
    assert fit.best.cost == best.cross_entropy < records[-1].cross_entropy
    assert cross_entropies(fit.fitted(), crescent(300, seed=1), 0).mean() == pytest.approx(best.cross_entropy)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_fit_restored_after_any_epoch_ends_like_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    train, held_out = crescent(100), crescent(50, seed=1)
    whole, records = fitted(train, held_out)

    def journal() -> Journal[PriorRecord]:
        fit = PriorFit(2, settings())
        recipe = settings()
        opened = Journal(tmp_path, "prior", "prior.csv", fit=fit, recipe=recipe, epoch=PriorRecord, remedy="delete it")
        opened.resume()
        return opened

    first = journal()
    assert isinstance(first.fit, PriorFit)
    first.fit.start_from(train)
    for record in first.fit.epochs(train, held_out):
        first.add(record)
        if record.epoch == stop:
            break
    second = journal()
    assert len(second.records) == stop
    for record in second.fit.epochs(train, held_out):
        second.add(record)
    assert [record.cross_entropy for record in second.records] == [record.cross_entropy for record in records]
    ours, theirs = second.fit.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "prior.csv").read_text().count("\n") == 5


def test_a_cost_that_is_not_finite_names_the_remedy() -> None:
    broken = crescent(50)
    broken[3, 0] = np.inf
    with pytest.raises(TrainingError, match="--prior standard"):
        fitted(crescent(100), broken)


@pytest.mark.parametrize("name", ["grey-conv-gaussian", "table-mlp-gaussian", "grey-conv-flow"])
def test_only_the_cross_entropy_of_a_model_changes(name: str) -> None:
    """A model with a fitted flow scores and decodes as before, but for the terms of the prior."""
    vae, samples = build(name), reference(name, 60)
    latent = vae.config.latent
    fit = PriorFit(latent, settings(epochs=2))
    train = posteriors(vae, samples)
    fit.start_from(train)
    list(fit.epochs(train, train))
    changed, x = with_flow(vae, FLOW, fit.fitted()), to_tensor(samples[:5])
    assert isinstance(changed.prior, FlowPrior)
    assert isinstance(changed.config, ModelConfig) and changed.config.prior == FLOW
    before, after = (score_batch(model, x, ScoringConfig(3, 0, 0)).estimates for model in (vae, changed))
    np.testing.assert_allclose(after.distortion, before.distortion)
    np.testing.assert_allclose(after.entropy, before.entropy)
    assert after.rate_analytic is None
    assert not np.allclose(after.cross_entropy, before.cross_entropy)
    q = vae.encode(x)
    expected = cross_entropies(changed.prior, torch.cat([q.mean, q.scale], dim=1).numpy(), 0)
    one = score_batch(changed, x[:1], ScoringConfig(1, 0, 0)).estimates
    assert one.cross_entropy[0] == pytest.approx(expected[0], rel=1e-6)


def test_defaults_follow_the_latent_and_the_samples() -> None:
    large, small = PriorSettings.default_for(128, 50_000), PriorSettings.default_for(4, 1000)
    assert large.flow.hidden == (384, 384, 384) and small.flow.hidden == (64, 64, 64)
    assert large.epochs == 15 and small.epochs == 200


@pytest.mark.parametrize("lost", ["best.shift", "best_cost", "weights.shift"])
def test_a_state_with_a_missing_tensor_is_refused(lost: str) -> None:
    fit, _ = fitted(crescent(40), crescent(20, seed=1), epochs=1)
    state = fit.state()
    del state[lost]
    with pytest.raises(TrainingError, match="another training"):
        PriorFit(2, settings()).restore(state)


@pytest.mark.parametrize(
    ("name", "latent", "samples", "expected"),
    [
        (None, 8, 1250, True),
        (None, 8, 300, False),
        (None, 1, 1250, False),
        ("flow", 8, 300, True),
        ("standard", 8, 1250, False),
    ],
)
def test_a_flow_is_fitted_where_there_are_samples_enough(
    name: PriorName | None, latent: int, samples: int, expected: bool
) -> None:
    split = Split.from_dataset(Memory(rows(samples)), None, None, 0)
    training = TrainingSettings(epochs=1, held_out=1, seed=5)
    chosen = choose_prior(name, latent, split, training)
    assert (chosen is not None) == expected
    assert chosen is None or chosen.seed == 5


@pytest.mark.parametrize(("latent", "held_out", "words"), [(1, 30, "two dimensions"), (4, 3, "held-out samples")])
def test_a_flow_that_cannot_be_fitted_or_judged_is_refused(latent: int, held_out: int, words: str) -> None:
    split = Split.from_dataset(Memory(rows(300)), held_out, None, 0)
    with pytest.raises(ConfigError, match=words):
        choose_prior("flow", latent, split, TrainingSettings(epochs=1, held_out=1))
