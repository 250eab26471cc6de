"""Training makes free energy fall, by the seed alone, and goes on from its state as if it had never stopped."""

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
from model.training.config import Recipe, Split
from model.training.loop import Training, TrainingSettings
from model.vae import VAE, to_tensor
from tests.support.data import Memory, rows, stripes
from tests.support.models import CONFIGS


def split_of(config: ModelConfig, count: int) -> Split:
    data = Memory(rows(count)) if config.data.kind == "vector" else Memory(stripes(count, config.data.shape))
    return Split.of(data, count // 5, 0, 0)


def training(name: str = "table-mlp-gaussian", **settings: Any) -> Training:
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
    one = training(name, epochs=20, batch_size=20, learning_rate=5e-3)
    records = list(one.epochs(split.fit, split.held_out))
    first, last = records[0], records[-1]
    assert [record.epoch for record in records] == list(range(1, 21))
    assert last.free_energy < first.free_energy
    assert last.train_free_energy < first.train_free_energy
    # The structure of the data is in the latent.
    assert one.average.encode(to_tensor(split.held_out)).rate().sum(1).mean() > 0.1
    dims = CONFIGS[name].data.dims
    assert (last.bits_per_dim is None) == (VAE(CONFIGS[name]).levels is None)
    if last.bits_per_dim is not None:
        assert last.bits_per_dim == pytest.approx(last.free_energy / dims / np.log(2))


def test_an_auxiliary_loss_puts_into_the_latent_what_neighbours_could_tell() -> None:
    name = "rgb-conv-autoregressive"
    split = split_of(CONFIGS[name], 150)
    gains = []
    for auxiliary in (0.0, 3.0):
        one = training(name, epochs=15, batch_size=20, learning_rate=5e-3, auxiliary=auxiliary)
        last = list(one.epochs(split.fit, split.held_out))[-1]
        x = to_tensor(split.held_out)
        with torch.no_grad():
            mean = one.average.encode(x).mean
            own, others = (one.average.decode(z) for z in (mean, mean.roll(1, dims=0)))
        assert isinstance(own, AutoregressiveLogistic) and isinstance(others, AutoregressiveLogistic)
        costs = [p.independent.nlog_prob(x).flatten(1).sum(1).mean().item() for p in (own, others)]
        # What the latent of a picture tells of its bytes that another picture's does not.
        gains.append(costs[1] - costs[0])
        # What is reported is free energy alone, with and without: within a tenth of that of the averaged weights.
        assert last.train_free_energy == pytest.approx(last.free_energy, rel=0.1)
    assert gains[1] > 2 * max(gains[0], 1.0)


@pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized"])
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    split = split_of(CONFIGS[name], 60)
    first, same, other = (training(name, seed=seed, epochs=2) for seed in (1, 1, 2))
    records = [without_time(list(one.epochs(split.fit, split.held_out))) for one in (first, same, other)]
    assert same_state(first, same)
    assert records[0] == records[1] != records[2]


@pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized", "grey-mlp-bernoulli"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_training_restored_after_any_epoch_ends_as_the_unbroken_one(name: str, stop: int) -> None:
    split = split_of(CONFIGS[name], 60)
    unbroken, broken, resumed = training(name), training(name), training(name)
    whole = without_time(list(unbroken.epochs(split.fit, split.held_out)))
    steps = broken.epochs(split.fit, split.held_out)
    part = [next(steps) for _ in range(stop)]
    resumed.restore(broken.state())
    assert same_state(resumed, broken)
    part += resumed.epochs(split.fit, split.held_out)
    assert same_state(resumed, unbroken)
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
    one = training()
    next(one.epochs(split.fit, split.held_out))
    state = one.state()
    spoil(state)
    with pytest.raises(TrainingError, match="--out"):
        training().restore(state)


def test_a_finished_training_has_nothing_left_to_do() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    done = training(epochs=1)
    assert len(list(done.epochs(split.fit, split.held_out))) == 1
    assert list(done.epochs(split.fit, split.held_out)) == []


def test_the_state_is_plain_tensors_that_later_steps_leave_alone() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    one = training()
    steps = one.epochs(split.fit, split.held_out)
    next(steps)
    kept = one.state()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    other = training()
    other.restore(kept)
    list(other.epochs(split.fit, split.held_out))
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_no_draw_is_taken_from_the_global_generators() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    torch.manual_seed(5)
    numpy_before = np.random.get_state()  # noqa: NPY002 - it must be the global one
    before = torch.get_rng_state()
    one = training()
    assert torch.equal(torch.get_rng_state(), before)
    list(one.epochs(split.fit, split.held_out))
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == str(numpy_before)  # noqa: NPY002


def test_the_global_generator_does_not_change_the_outcome() -> None:
    torch.manual_seed(1)
    first = training()
    torch.manual_seed(2)
    assert same_state(first, training())


class TestDivergence:
    def test_an_infinite_loss_names_the_remedy(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        one = training()
        with torch.no_grad():
            next(one.vae.parameters()).fill_(float("nan"))
        with pytest.raises(TrainingError, match=r"epoch 1 .*--learning-rate"):
            list(one.epochs(split.fit, split.held_out))

    def test_weights_stay_as_they_were_before_the_step_that_diverged(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        one = training()
        kept: list[dict[str, Tensor]] = []

        def poison(done: int, total: int) -> None:
            if done == 2:
                kept.append({name: weight.clone() for name, weight in one.vae.state_dict().items()})
                split.fit[:] = np.inf

        with pytest.raises(TrainingError):
            list(one.epochs(split.fit, split.held_out, poison))
        assert all(torch.equal(weight, kept[0][name]) for name, weight in one.vae.state_dict().items())

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_held_out_samples_beyond_all_measure_are_an_error_not_a_score(self) -> None:
        split = split_of(CONFIGS["table-mlp-gaussian"], 60)
        split.held_out[0, 0] = 1e30
        with pytest.raises(TrainingError, match="held"):
            list(training().epochs(split.fit, split.held_out))


def test_the_loss_is_the_free_energy() -> None:
    split = split_of(CONFIGS["grey-mlp-bernoulli"], 250)
    still = training("grey-mlp-bernoulli", epochs=1, learning_rate=1e-12)
    # Weights that make the rate large: a loss without it, or with another, would be far off.
    bias = [weight for weight in still.vae.encoder.parameters() if weight.ndim == 1][-1]
    bias.data = torch.tensor([4.0, 4.0, 4.0, -1.0, -1.0, -1.0])
    said = next(still.epochs(split.fit, split.held_out)).train_free_energy
    x = to_tensor(split.fit)
    draws = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    scores = estimate(still.vae, x, still.vae.encode(x), draws)
    assert scores.rate_analytic.mean() > 10
    assert scores.standard_error is not None
    one_draw_each = float(scores.standard_error.mean()) * np.sqrt(len(draws) / len(x))
    assert abs(said - scores.free_energy.mean()) < 4 * one_draw_each < 5


def test_each_epoch_has_draws_of_its_own() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    split.fit[:] = split.fit[0]
    still = training(epochs=3, learning_rate=1e-12, batch_size=100)
    records = list(still.epochs(split.fit, split.held_out))
    assert len({round(record.train_free_energy, 3) for record in records}) == 3
    assert len({round(record.free_energy, 3) for record in records}) == 1


def test_batches_are_counted() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 50)
    seen: list[tuple[int, int]] = []
    list(training(epochs=2).epochs(split.fit, split.held_out, lambda done, total: seen.append((done, total))))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    one = training(epochs=10, warmup=7, learning_rate=0.01)
    rates = []
    for step in range(100):
        one.step = step
        rates.append(one._learning_rate(batches=10))
    assert rates[:7] == pytest.approx([0.01 * (i + 1) / 7 for i in range(7)])
    assert max(rates) == pytest.approx(0.01)
    assert (np.diff(rates[7:]) < 0).all()
    assert 0 < rates[-1] < 1e-5


def test_what_is_judged_is_the_running_average() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    one = training(average=0.9)
    record = list(one.epochs(split.fit, split.held_out))[-1]
    assert not torch.equal(next(one.average.parameters()), next(one.vae.parameters()))
    assert not any(weight.requires_grad for weight in one.average.parameters())
    x = to_tensor(split.held_out)
    draws = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    scores = estimate(one.average, x, one.average.encode(x), draws)
    assert scores.standard_error is not None
    # One draw each, all of the same noise: allow for it being an unusual one.
    spread = scores.standard_error.mean() * np.sqrt(2000)
    assert abs(record.free_energy - scores.free_energy.mean()) < 4 * spread


def test_without_an_average_the_weights_themselves_are_kept() -> None:
    split = split_of(CONFIGS["table-mlp-gaussian"], 60)
    one = training(average=0.0)
    list(one.epochs(split.fit, split.held_out))
    for average, weight in zip(one.average.parameters(), one.vae.parameters(), strict=True):
        assert torch.allclose(average, weight, atol=1e-6)


def test_low_precision_trains_nearly_as_well() -> None:
    split = split_of(CONFIGS["grey-conv-gaussian"], 100)
    ends = [
        list(training("grey-conv-gaussian", precision=precision, epochs=4).epochs(split.fit, split.held_out))[-1]
        for precision in ("float32", "bfloat16")
    ]
    assert ends[0].free_energy != ends[1].free_energy
    assert ends[1].free_energy == pytest.approx(ends[0].free_energy, abs=5)


def test_each_held_out_sample_is_judged_by_a_draw_of_its_own() -> None:
    split = Split.of(Memory(rows(620)), 600, 0, 0)
    one = training(epochs=1)
    (record,) = one.epochs(split.fit, split.held_out)
    x = to_tensor(split.held_out)
    draws = torch.from_numpy(random.normal(0, (600, one.average.config.latent)))
    with torch.inference_mode():
        q = one.average.encode(x)
        each = [
            estimate(one.average, x[i : i + 1], Gaussian(q.mean[i : i + 1], q.scale[i : i + 1]), draws[i : i + 1])
            for i in range(600)
        ]
    for name in ("free_energy", "distortion", "rate"):
        expected = np.concatenate([getattr(score, name) for score in each]).mean()
        assert getattr(record, name) == pytest.approx(expected, rel=1e-5)


def test_a_recipe_says_how_to_repeat_its_training(tmp_path: Path) -> None:
    recipe, split = Recipe.plan(
        Memory(rows(60)), network={"hidden": (8,)}, likelihood={}, latent=None, settings={"epochs": 2}
    )
    again = Recipe.model_validate(json.loads(recipe.model_dump_json()))
    first, second = (Training(r.config, r.settings) for r in (recipe, again))
    for one in (first, second):
        list(one.epochs(split.fit, split.held_out))
    assert same_state(first, second)


def moved(one: Training, split: Split) -> list[dict[str, bool]]:
    """At every step, whether any weight of each part moved."""
    parts = {"encoder": one.vae.encoder, "decoder": one.vae.decoder, "head": one.vae.head}

    def weights() -> dict[str, Tensor]:
        flat = {name: [weight.detach().flatten() for weight in part.parameters()] for name, part in parts.items()}
        return {name: torch.cat(values).clone() for name, values in flat.items() if values}

    steps: list[dict[str, Tensor]] = [weights()]
    list(one.epochs(split.fit, split.held_out, lambda done, total: steps.append(weights())))
    return [{name: not torch.equal(a[name], b[name]) for name in a} for a, b in itertools.pairwise(steps)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
class TestInferenceSteps:
    @pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized", "grey-conv-gaussian"])
    @pytest.mark.parametrize("every", [1, 2, 4, 100])
    def test_the_decoder_moves_at_every_nth_step_and_the_encoder_at_all(
        self, every: int, name: str, optimizer: str
    ) -> None:
        split = split_of(CONFIGS[name], 60)
        steps = moved(training(name, inference_steps=every, optimizer=optimizer), split)
        assert len(steps) == 9
        for number, step in enumerate(steps, start=1):
            assert step["encoder"]
            for part in step.keys() - {"encoder"}:
                assert step[part] == (number % every == 0), (number, part)

    @pytest.mark.parametrize("name", ["table-mlp-gaussian", "rgb-conv-discretized"])
    @pytest.mark.parametrize("stop", [1, 2])
    @pytest.mark.parametrize("every", [2, 5])
    def test_a_restored_training_ends_as_the_unbroken_one(
        self, every: int, stop: int, name: str, optimizer: str
    ) -> None:
        split = split_of(CONFIGS[name], 60)
        unbroken, broken, resumed = (training(name, inference_steps=every, optimizer=optimizer) for _ in range(3))
        whole = without_time(list(unbroken.epochs(split.fit, split.held_out)))
        steps = broken.epochs(split.fit, split.held_out)
        part = [next(steps) for _ in range(stop)]
        state = broken.state()
        # Three steps an epoch: after the first of them no fifth step has moved the decoder.
        stepped = any(key.startswith("optimizer.decoder.") for key in state)
        assert stepped == (3 * stop >= every)
        resumed.restore(state)
        assert same_state(resumed, broken)
        part += resumed.epochs(split.fit, split.held_out)
        assert same_state(resumed, unbroken)
        assert without_time(part) == whole

    def test_free_energy_falls(self, optimizer: str) -> None:
        split = split_of(CONFIGS["grey-mlp-bernoulli"], 150)
        one = training("grey-mlp-bernoulli", epochs=20, batch_size=20, inference_steps=3, optimizer=optimizer)
        records = list(one.epochs(split.fit, split.held_out))
        assert records[-1].free_energy < records[0].free_energy
