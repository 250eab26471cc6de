"""The training loop: free energy falls, the seed decides the outcome, and a restored state continues exactly."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model import random
from model.config import ModelConfig
from model.errors import TrainingError
from model.likelihoods import Gaussian
from model.likelihoods.discretized import AutoregressiveLogistic
from model.record import EpochRecord
from model.scoring.batches import estimate
from model.training.config import TrainingConfig
from model.training.loop import Training, TrainingSettings
from model.training.splits import Split
from model.vae import VAE, to_tensor
from tests.support.data import Memory, rows, stripes
from tests.support.models import CONFIGS


def split_of(config: ModelConfig, count: int) -> Split:
    data = Memory(rows(count)) if config.data.kind == "vector" else Memory(stripes(count, config.data.shape))
    return Split.from_dataset(data, count // 5, 0, 0)


def new_training(name: str = "table-mlp-gaussian", **settings: Any) -> Training:
    chosen = {"epochs": 3, "held_out": 20, "batch_size": 16} | settings
    return Training(CONFIGS[name], TrainingSettings(**chosen))


def same_state(first: Training, second: Training) -> bool:
    a, b = first.state(), second.state()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_time(records: list[EpochRecord]) -> list[tuple[float | None, ...]]:
    return [
        (r.epoch, r.free_energy, r.distortion, r.rate, r.bits_per_dim, r.train_free_energy, r.learning_rate)
        for r in records
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_free_energy_falls(name: str) -> None:
    split = split_of(CONFIGS[name], 150)
    training = new_training(name, epochs=20, batch_size=20, learning_rate=5e-3)
    records = list(training.epochs(split.train, split.validation))
    first, last = records[0], records[-1]
    assert [record.epoch for record in records] == list(range(1, 21))
    assert last.free_energy < first.free_energy
    assert last.train_free_energy < first.train_free_energy
    # The latent encodes the structure of the data.
    assert training.average.encode(to_tensor(split.validation)).kl_to_normal().sum(1).mean() > 0.1
    dims = CONFIGS[name].data.dims
    assert (last.bits_per_dim is None) == (VAE(CONFIGS[name]).levels is None)
    if last.bits_per_dim is not None:
        assert last.bits_per_dim == pytest.approx(last.free_energy / dims / np.log(2))


def test_the_auxiliary_loss_makes_the_latent_informative() -> None:
    name = "rgb-conv-autoregressive"
    split = split_of(CONFIGS[name], 150)
    gains = []
    for auxiliary in (0.0, 3.0):
        training = new_training(name, epochs=15, batch_size=20, learning_rate=5e-3, auxiliary=auxiliary)
        last = list(training.epochs(split.train, split.validation))[-1]
        x = to_tensor(split.validation)
        with torch.no_grad():
            mean = training.average.encode(x).mean
            own, others = (training.average.decode(z) for z in (mean, mean.roll(1, dims=0)))
        assert isinstance(own, AutoregressiveLogistic) and isinstance(others, AutoregressiveLogistic)
        costs = [p.independent.nlog_prob(x).flatten(1).sum(1).mean().item() for p in (own, others)]
        # Nats by which the latent of another image predicts the bytes worse than their own.
        gains.append(costs[1] - costs[0])
        # The record holds free energy without the auxiliary loss: within a tenth of that of the averaged weights.
        assert last.train_free_energy == pytest.approx(last.free_energy, rel=0.1)
    assert gains[1] > 2 * max(gains[0], 1.0)


@pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized"])
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    split = split_of(CONFIGS[name], 60)
    first, same, other = (new_training(name, seed=seed, epochs=2) for seed in (1, 1, 2))
    records = [without_time(list(training.epochs(split.train, split.validation))) for training in (first, same, other)]
    assert same_state(first, same)
    assert records[0] == records[1] != records[2]


@pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized", "grey-mlp-bernoulli"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_training_restored_after_any_epoch_ends_like_an_uninterrupted_one(name: str, stop: int) -> None:
    split = split_of(CONFIGS[name], 60)
    uninterrupted, interrupted, resumed = new_training(name), new_training(name), new_training(name)
    whole = without_time(list(uninterrupted.epochs(split.train, split.validation)))
    steps = interrupted.epochs(split.train, split.validation)
    part = [next(steps) for _ in range(stop)]
    resumed.restore(interrupted.state())
    assert same_state(resumed, interrupted)
    part += resumed.epochs(split.train, split.validation)
    assert same_state(resumed, uninterrupted)
    assert without_time(part) == whole


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("progress"),
        lambda state: state.pop("weights.encoder.layers.0.bias"),
        lambda state: state.pop("optimizer.encoder.layers.0.weight.exp_avg"),
        lambda state: state.update({"optimizer.encoder.layers.0.weight.exp_avg": torch.zeros(3)}),
        lambda state: state.update({"average.encoder.layers.0.bias": torch.zeros(3)}),
        lambda state: state.update({"optimizer.first.exp_avg": torch.zeros(3)}),
    ],
)
def test_a_state_of_another_training_is_refused(spoil: Callable[[dict[str, Tensor]], object]) -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    training = new_training()
    next(training.epochs(split.train, split.validation))
    state = training.state()
    spoil(state)
    with pytest.raises(TrainingError, match="--out"):
        new_training().restore(state)


def test_a_finished_training_has_nothing_left_to_do() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    done = new_training(epochs=1)
    assert len(list(done.epochs(split.train, split.validation))) == 1
    assert list(done.epochs(split.train, split.validation)) == []


def test_later_steps_do_not_change_a_saved_state() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    training = new_training()
    steps = training.epochs(split.train, split.validation)
    next(steps)
    saved = training.state()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    other = new_training()
    other.restore(saved)
    list(other.epochs(split.train, split.validation))
    assert all(torch.equal(saved[name], before[name]) for name in saved)


def test_no_draw_is_taken_from_the_global_generators() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    torch.manual_seed(5)
    numpy_before = np.random.get_state()  # noqa: NPY002 - it must be the global one
    before = torch.get_rng_state()
    training = new_training()
    assert torch.equal(torch.get_rng_state(), before)
    list(training.epochs(split.train, split.validation))
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == str(numpy_before)  # noqa: NPY002


def test_the_global_generator_does_not_change_the_outcome() -> None:
    torch.manual_seed(1)
    first = new_training()
    torch.manual_seed(2)
    assert same_state(first, new_training())


class TestDivergence:
    def test_an_infinite_loss_names_the_remedy(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        training = new_training()
        with torch.no_grad():
            next(training.vae.parameters()).fill_(float("nan"))
        with pytest.raises(TrainingError, match=r"epoch 1 .*--learning-rate"):
            list(training.epochs(split.train, split.validation))

    def test_a_step_that_diverges_changes_no_weight(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        training = new_training()
        saved: list[dict[str, Tensor]] = []

        def poison(done: int, total: int) -> None:
            if done == 2:
                saved.append({name: weight.clone() for name, weight in training.vae.state_dict().items()})
                split.train[:] = np.inf

        with pytest.raises(TrainingError):
            list(training.epochs(split.train, split.validation, poison))
        assert all(torch.equal(weight, saved[0][name]) for name, weight in training.vae.state_dict().items())

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_extreme_validation_samples_raise_an_error(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        split.validation[0, 0] = 1e30
        with pytest.raises(TrainingError, match="held"):
            list(new_training().epochs(split.train, split.validation))


def test_the_loss_is_the_free_energy() -> None:
    split = split_of(CONFIGS["grey-mlp-bernoulli"], 250)
    still = new_training("grey-mlp-bernoulli", epochs=1, learning_rate=1e-12)
    # These weights make the rate large, so that an error in its term of the loss shows.
    bias = [weight for weight in still.vae.encoder.parameters() if weight.ndim == 1][-1]
    bias.data = torch.tensor([4.0, 4.0, 4.0, -1.0, -1.0, -1.0])
    free_energy = next(still.epochs(split.train, split.validation)).train_free_energy
    x = to_tensor(split.train)
    draws = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    scores = estimate(still.vae, x, still.vae.encode(x), draws)
    assert scores.rate_analytic is not None and scores.rate_analytic.mean() > 10
    assert scores.standard_error is not None
    one_draw_each = float(scores.standard_error.mean()) * np.sqrt(len(draws) / len(x))
    assert abs(free_energy - scores.free_energy.mean()) < 4 * one_draw_each < 5


def test_training_draws_differ_between_epochs() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    split.train[:] = split.train[0]
    still = new_training(epochs=3, learning_rate=1e-12, batch_size=100)
    records = list(still.epochs(split.train, split.validation))
    assert len({round(record.train_free_energy, 3) for record in records}) == 3
    assert len({round(record.free_energy, 3) for record in records}) == 1


def test_batches_are_counted() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 50)
    seen: list[tuple[int, int]] = []
    list(new_training(epochs=2).epochs(split.train, split.validation, lambda done, total: seen.append((done, total))))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = new_training(epochs=10, warmup=7, learning_rate=0.01)
    rates = []
    for step in range(100):
        training.step = step
        rates.append(training._learning_rate(batches=10))
    assert rates[:7] == pytest.approx([0.01 * (i + 1) / 7 for i in range(7)])
    assert max(rates) == pytest.approx(0.01)
    assert (np.diff(rates[7:]) < 0).all()
    assert 0 < rates[-1] < 1e-5


def test_the_running_average_is_validated() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    training = new_training(average=0.9)
    record = list(training.epochs(split.train, split.validation))[-1]
    assert not torch.equal(next(training.average.parameters()), next(training.vae.parameters()))
    assert not any(weight.requires_grad for weight in training.average.parameters())
    x = to_tensor(split.validation)
    draws = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    scores = estimate(training.average, x, training.average.encode(x), draws)
    assert scores.standard_error is not None
    # The record uses one draw per sample; allow four standard deviations of it.
    spread = scores.standard_error.mean() * np.sqrt(2000)
    assert abs(record.free_energy - scores.free_energy.mean()) < 4 * spread


def test_a_decay_of_zero_averages_nothing() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    training = new_training(average=0.0)
    list(training.epochs(split.train, split.validation))
    for average, weight in zip(training.average.parameters(), training.vae.parameters(), strict=True):
        assert torch.allclose(average, weight, atol=1e-6)


def test_bfloat16_trains_nearly_as_well() -> None:
    split = split_of(CONFIGS["grey-conv-gaussian"], 100)
    ends = [
        [*new_training("grey-conv-gaussian", precision=precision, epochs=4).epochs(split.train, split.validation)][-1]
        for precision in ("float32", "bfloat16")
    ]
    assert ends[0].free_energy != ends[1].free_energy
    assert ends[1].free_energy == pytest.approx(ends[0].free_energy, abs=5)


@pytest.mark.parametrize("settings", [{"flip": True}, {"shift": 2}, {"flip": True, "shift": 1}])
def test_an_augmented_training_restored_ends_like_an_uninterrupted_one(settings: dict[str, Any]) -> None:
    name = "rgb-conv-discretized"
    split, plain = split_of(CONFIGS[name], 60), new_training(name)
    whole, first, second = (new_training(name, **settings) for _ in range(3))
    list(plain.epochs(split.train, split.validation))
    list(whole.epochs(split.train, split.validation))
    assert not same_state(plain, whole)
    next(first.epochs(split.train, split.validation))
    second.restore(first.state())
    list(second.epochs(split.train, split.validation))
    assert same_state(whole, second)


def test_each_validation_sample_has_its_own_draw() -> None:
    split = Split.from_dataset(Memory(rows(620)), 600, 0, 0)
    training = new_training(epochs=1)
    (record,) = training.epochs(split.train, split.validation)
    x = to_tensor(split.validation)
    draws = torch.from_numpy(random.normal(0, (600, training.average.config.latent)))
    with torch.inference_mode():
        q = training.average.encode(x)
        each = [
            estimate(training.average, x[i : i + 1], Gaussian(q.mean[i : i + 1], q.scale[i : i + 1]), draws[i : i + 1])
            for i in range(600)
        ]
    for name in ("free_energy", "distortion", "rate"):
        expected = np.concatenate([getattr(score, name) for score in each]).mean()
        assert getattr(record, name) == pytest.approx(expected, rel=1e-5)


def test_a_configuration_read_from_json_repeats_the_training(tmp_path: Path) -> None:
    config, split = TrainingConfig.resolve(
        Memory(rows(60)), network={"hidden": (8,)}, likelihood={}, latent=None, settings={"epochs": 2}
    )
    again = TrainingConfig.model_validate(json.loads(config.model_dump_json()))
    first, second = (Training(r.config, r.settings) for r in (config, again))
    for training in (first, second):
        list(training.epochs(split.train, split.validation))
    assert same_state(first, second)


def moved(training: Training, split: Split) -> list[dict[str, bool]]:
    """True for each step and part if any of its weights moved."""
    parts = {"encoder": training.vae.encoder, "decoder": training.vae.decoder, "head": training.vae.head}

    def weights() -> dict[str, Tensor]:
        flat = {name: [weight.detach().flatten() for weight in part.parameters()] for name, part in parts.items()}
        return {name: torch.cat(values).clone() for name, values in flat.items() if values}

    steps: list[dict[str, Tensor]] = [weights()]
    list(training.epochs(split.train, split.validation, lambda done, total: steps.append(weights())))
    return [{name: not torch.equal(a[name], b[name]) for name in a} for a, b in itertools.pairwise(steps)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
class TestInferenceSteps:
    @pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized", "grey-conv-gaussian"])
    @pytest.mark.parametrize("every", [1, 2, 4, 100])
    def test_the_decoder_moves_every_nth_step_and_the_encoder_every_step(
        self, every: int, name: str, optimizer: str
    ) -> None:
        split = split_of(CONFIGS[name], 60)
        steps = moved(new_training(name, inference_steps=every, optimizer=optimizer), split)
        assert len(steps) == 9
        for number, step in enumerate(steps, start=1):
            assert step["encoder"]
            for part in step.keys() - {"encoder"}:
                assert step[part] == (number % every == 0), (number, part)

    @pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized"])
    @pytest.mark.parametrize("stop", [1, 2])
    @pytest.mark.parametrize("every", [2, 5])
    def test_a_restored_training_ends_like_an_uninterrupted_one(
        self, every: int, stop: int, name: str, optimizer: str
    ) -> None:
        split = split_of(CONFIGS[name], 60)
        uninterrupted, interrupted, resumed = (
            new_training(name, inference_steps=every, optimizer=optimizer) for _ in range(3)
        )
        whole = without_time(list(uninterrupted.epochs(split.train, split.validation)))
        steps = interrupted.epochs(split.train, split.validation)
        part = [next(steps) for _ in range(stop)]
        state = interrupted.state()
        # With three steps per epoch, the fifth step, which moves the decoder, is in the second epoch.
        stepped = any(key.startswith("optimizer.decoder.") for key in state)
        assert stepped == (3 * stop >= every)
        resumed.restore(state)
        assert same_state(resumed, interrupted)
        part += resumed.epochs(split.train, split.validation)
        assert same_state(resumed, uninterrupted)
        assert without_time(part) == whole

    def test_free_energy_falls(self, optimizer: str) -> None:
        split = split_of(CONFIGS["grey-mlp-bernoulli"], 150)
        training = new_training("grey-mlp-bernoulli", epochs=20, batch_size=20, inference_steps=3, optimizer=optimizer)
        records = list(training.epochs(split.train, split.validation))
        assert records[-1].free_energy < records[0].free_energy
