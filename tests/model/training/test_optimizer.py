"""Optimizers: steps move the module's weights, equal those of AdamW or Muon, and continue exactly from a state."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.training.loop import Training, TrainingSettings
from model.training.optimizer import ADAMW_ONLY, Optimizer
from model.vae import VAE
from tests.support.models import CONFIGS

#: All kinds of layers that networks have.
KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(12, 20),
    "wide": lambda: nn.Linear(20, 12),
    "conv": lambda: nn.Conv2d(4, 10, 3),
    "pointwise": lambda: nn.Conv2d(16, 10, 1),
    "one channel": lambda: nn.Conv2d(1, 6, 3),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def layer(kind: str, layout: str = "channels last", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = KINDS[kind]()
    return module.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload, no-any-return]


def optimizer(module: nn.Module, name: str = "muon", decay: float = 0.0) -> Optimizer:
    assert name in ("adamw", "muon")
    return Optimizer(module, name=name, learning_rate=0.01, weight_decay=decay)  # type: ignore[arg-type]


def add_gradients(module: nn.Module, seed: int) -> None:
    """Put a random gradient on every weight, as backpropagation would."""
    draw = torch.Generator().manual_seed(seed)
    loss = sum((weight * torch.randn(weight.shape, generator=draw)).sum() for weight in module.parameters())
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]


def take_steps(module: nn.Module, steps: Optimizer, seeds: range) -> None:
    for seed in seeds:
        add_gradients(module, seed)
        steps.step(0.01)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
class TestMuon:
    def test_matrices_share_memory_with_the_weights(self, layout: str, kind: str) -> None:
        module = layer(kind, layout)
        (matrix,) = optimizer(module).matrices.values()
        weight = module.get_parameter("weight")
        assert matrix.data_ptr() == weight.data_ptr()
        assert matrix.shape == (len(weight), weight[0].numel())
        matrix.fill_(3.0)
        assert (weight == 3).all()

    def test_a_step_moves_the_weights_of_the_module(self, layout: str, kind: str) -> None:
        module = layer(kind, layout)
        before, steps = weights(module), optimizer(module)
        add_gradients(module, 0)
        steps.step(0.01)
        for name, weight in module.named_parameters():
            assert (weight != before[name]).any(), name
            assert weight.grad is None

    def test_a_step_has_equal_size_in_all_directions_of_the_gradient(self, layout: str, kind: str) -> None:
        module = layer(kind, layout)
        before, steps = weights(module)["weight"], optimizer(module)
        add_gradients(module, 0)
        gradient = module.get_parameter("weight").grad
        assert gradient is not None
        gradient = gradient.clone().flatten(1)
        steps.step(0.01)
        moved = (before - module.get_parameter("weight").detach()).flatten(1)
        sizes, own = torch.linalg.svdvals(moved), torch.linalg.svdvals(gradient)
        assert sizes.max() / sizes.min() < 2
        assert own.max() / own.min() > sizes.max() / sizes.min()
        # The expected direction is U V', the matrix with equal singular values that is nearest to the gradient.
        left, _, right = torch.linalg.svd(gradient, full_matrices=False)
        assert torch.cosine_similarity((left @ right).flatten(), moved.flatten(), dim=0) > 0.95
        # Its size is scaled to that of AdamW's steps.
        assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)

    def test_layouts_make_no_difference(self, layout: str, kind: str) -> None:
        plain, other = layer(kind, "contiguous"), layer(kind, layout)
        for module in (plain, other):
            take_steps(module, optimizer(module, decay=0.1), range(4))
        for name, weight in plain.named_parameters():
            assert torch.allclose(weight, other.get_parameter(name), atol=2e-4), name


def test_adamw_steps_equal_those_of_torch() -> None:
    ours, theirs = layer("conv", "contiguous"), layer("conv", "contiguous")
    steps = optimizer(ours, "adamw", decay=0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for seed in range(6):
        add_gradients(ours, seed)
        add_gradients(theirs, seed)
        steps.step(0.01 / (1 + seed))
        for group in reference.param_groups:
            group["lr"] = 0.01 / (1 + seed)
        reference.step()
        reference.zero_grad()
    for name, weight in ours.named_parameters():
        assert torch.allclose(weight, theirs.get_parameter(name), atol=1e-6), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
class TestSteps:
    def test_a_learning_rate_of_zero_moves_nothing(self, name: str) -> None:
        module = layer("conv")
        before, steps = weights(module), optimizer(module, name, decay=0.5)
        add_gradients(module, 0)
        steps.step(0.0)
        assert all(torch.equal(weight, before[key]) for key, weight in module.named_parameters())

    def test_weights_without_a_gradient_do_not_move(self, name: str) -> None:
        module = nn.Sequential(layer("linear"), layer("linear", seed=1))
        before, steps = weights(module), optimizer(module, name, decay=0.5)
        add_gradients(module[0], 0)
        steps.step(0.01)
        for key, weight in module.named_parameters():
            assert torch.equal(weight, before[key]) == key.startswith("1."), key
        assert {key.split(".")[0] for key in steps.state()} == {"0"}

    def test_decay_shrinks_weights(self, name: str) -> None:
        with_decay, without = layer("linear"), layer("linear")
        take_steps(with_decay, optimizer(with_decay, name, decay=1.0), range(5))
        take_steps(without, optimizer(without, name), range(5))
        assert with_decay.get_parameter("weight").norm() < without.get_parameter("weight").norm()


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
class TestState:
    def test_a_restored_optimizer_continues_exactly(self, kind: str, layout: str, name: str) -> None:
        whole, part = layer(kind, layout), layer(kind, layout)
        take_steps(whole, optimizer(whole, name), range(6))
        first = optimizer(part, name)
        take_steps(part, first, range(3))
        # Files hold contiguous tensors.
        saved = {key: value.clone(memory_format=torch.contiguous_format) for key, value in first.state().items()}
        resumed = layer(kind, layout, seed=1)
        resumed.load_state_dict(part.state_dict())
        again = optimizer(resumed, name)
        again.restore(saved)
        assert all(torch.equal(again.state()[key], value) for key, value in saved.items())
        take_steps(resumed, again, range(3, 6))
        for key, weight in whole.named_parameters():
            assert torch.equal(weight, resumed.get_parameter(key)), key

    def test_a_restored_state_is_copied(self, kind: str, layout: str, name: str) -> None:
        module = layer(kind, layout)
        first, second = optimizer(module, name), optimizer(module, name)
        take_steps(module, first, range(2))
        saved = {key: value.clone() for key, value in first.state().items()}
        given = {key: value.clone() for key, value in saved.items()}
        second.restore(given)
        take_steps(module, second, range(2))
        assert all(torch.equal(given[key], value) for key, value in saved.items())


SPOILED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "unknown weight": lambda state: state.update({"spy.exp_avg": torch.zeros(1)}),
    "no weight": lambda state: state.update({"exp_avg": torch.zeros(1)}),
    "unknown moment": lambda state: state.update({"bias.spy": torch.zeros(20)}),
    "lost moment": lambda state: state.pop("bias.exp_avg"),
    "lost step": lambda state: state.pop("bias.step"),
    "other step": lambda state: state.update({"bias.step": torch.zeros(3)}),
    "other shape": lambda state: state.update({"bias.exp_avg": torch.zeros(3)}),
    "transposed": lambda state: [state.update({k: v.T.clone()}) for k, v in list(state.items()) if v.ndim == 2],
    "one number": lambda state: [state.update({k: torch.zeros(1)}) for k, v in list(state.items()) if v.ndim == 2],
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_invalid_state_is_refused(name: str, how: str) -> None:
    module = layer("linear")
    steps = optimizer(module, name)
    take_steps(module, steps, range(2))
    state = steps.state()
    SPOILED[how](state)
    with pytest.raises(KeyError):
        optimizer(module, name).restore(state)


@pytest.mark.parametrize(("name", "other"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_state_of_the_other_optimizer_is_refused(name: str, other: str) -> None:
    module = layer("linear")
    steps = optimizer(module, name)
    take_steps(module, steps, range(2))
    with pytest.raises(KeyError):
        optimizer(module, other).restore(steps.state())


def test_a_state_before_the_first_step_is_empty() -> None:
    steps = optimizer(layer("conv"))
    assert steps.state() == {}
    steps.restore({})


@pytest.mark.parametrize("name", CONFIGS)
def test_muon_steps_only_the_matrices_of_networks(name: str) -> None:
    training = Training(CONFIGS[name], TrainingSettings(epochs=1, held_out=1, optimizer="muon"))
    matrices, all_weights = training.optimizer.matrices, dict(training.vae.named_parameters())
    for key, weight in all_weights.items():
        inside = weight.ndim >= 2 and key not in ADAMW_ONLY and not key.startswith("head.")
        assert (key in matrices) == inside, key
        if inside:
            assert matrices[key].ndim == 2 and matrices[key].data_ptr() == weight.data_ptr()
    convolutional = CONFIGS[name].network.name == "conv"
    assert sum(key in all_weights for key in ADAMW_ONLY) == (2 if convolutional else 0)
    # Every weight has exactly one optimizer.
    stepped = [
        id(weight)
        for part in training.optimizer.optimizers
        for group in part.param_groups
        for weight in group["params"]
    ]
    assert len(stepped) == len(set(stepped)) == len(all_weights)


def test_muon_lowers_the_loss_of_a_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VAE(CONFIGS["grey-conv-gaussian"]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = optimizer(vae)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 1, 8)
    losses = []
    for _ in range(30):
        q = vae.encode(x)
        loss = (vae.decode(q.mean).nlog_prob(x).flatten(1).sum(1) + q.kl_to_normal().sum(1)).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        steps.step(0.01)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1
