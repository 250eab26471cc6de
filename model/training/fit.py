"""Stochastic gradient descent on a module: an epoch at a time, restorable after each.

All noise and the order of samples follow from (seed, epoch), so that a restored fit gives the same results as an
uninterrupted one.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from model import random
from model.config import Frozen
from model.errors import TrainingError
from model.training.optimizer import Optimizer
from model.vae import to_tensor

Array = NDArray[Any]
Module = TypeVar("Module", bound=nn.Module)
Record = TypeVar("Record")


class FitSettings(Frozen):
    """Settings of a fit.

    `warmup` is a number of steps. `clip` limits the norm of the gradient of nats per dimension. `average` is the decay
    of the running average of the weights.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1 << 16)] = 128
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 200
    clip: Annotated[float, Field(gt=0)] = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    device: str = "cpu"


class FittedEpoch(NamedTuple):
    """Results of one epoch that every kind of fit has."""

    epoch: int
    cost: float  # mean over the batches, each at the weights of its step
    learning_rate: float
    seconds: float
    samples_per_second: float


class Best:
    """The averaged weights of the epoch with the lowest held-out cost."""

    def __init__(self, average: nn.Module) -> None:
        self.cost = math.inf
        self.weights = average.state_dict()
        self._average = average

    def offer(self, cost: float) -> None:
        """Keep the weights of an epoch if its cost is the lowest so far."""
        if cost < self.cost:
            self.cost = cost
            self.weights = {name: weight.clone() for name, weight in self._average.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """All tensors that `restore` needs, by name."""
        weights = {f"best.{name}": weight.detach().cpu().clone() for name, weight in self.weights.items()}
        return {**weights, "best_cost": torch.tensor(self.cost, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`. Raise KeyError if a tensor is missing."""
        self.weights = {name: state[f"best.{name}"].clone() for name in self._average.state_dict()}
        self.cost = float(state["best_cost"])


class Fit(ABC, Generic[Module, Record]):
    """One fit: the weights, their running average (which is validated and saved), and the optimizer.

    Args:
        module: to fit.
        average: of the same architecture; its weights are overwritten.
        dims: number of dimensions by which costs are divided, so that `clip` does not depend on the size of the data.
    """

    #: Advice to the user in the error about a cost that is not finite.
    remedy: str

    def __init__(self, module: Module, average: Module, settings: FitSettings, dims: int) -> None:
        self.module, self.average, self.dims = module, average, dims
        self._settings = settings
        self.average.load_state_dict(module.state_dict())
        self.average.eval().requires_grad_(False)
        self.optimizer = Optimizer(
            module, settings.optimizer, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.current_lr, self.epoch, self.step = 0.0, 0, 0

    @abstractmethod
    def _loss(self, batch: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean cost of the batch and the loss to minimize, both in nats per sample."""

    @abstractmethod
    def _record(self, validation: Array, epoch: FittedEpoch) -> Record:
        """The record of an epoch, with validation scores of the average. Raise `TrainingError` if one is not finite."""

    def _augment(self, batch: Tensor, draws: torch.Generator) -> Tensor:  # noqa: ARG002
        """Vary a batch at random, as the settings say."""
        return batch

    def _prepare_step(self) -> None:
        """Choose which weights the next step moves."""

    def epochs(
        self, train: Array, validation: Array, on_batch: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Record]:
        """Fit to the last epoch and yield one record per epoch.

        Args:
            train, validation: samples; of the fit of a model as a dataset gives them.
            on_batch: called with the number of finished batches and of all batches of this epoch.

        Raises:
            TrainingError: the loss or the score of a validation sample is not finite.
        """
        while self.epoch < self._settings.epochs:
            started = time.perf_counter()
            cost = self._fit_epoch(train, on_batch)
            self.epoch += 1
            seconds = time.perf_counter() - started
            yield self._record(
                validation, FittedEpoch(self.epoch, cost, self.current_lr, seconds, len(train) / seconds)
            )

    def _fit_epoch(self, train: Array, on_batch: Callable[[int, int], None]) -> float:
        """Fit for one epoch and return the mean cost, nats per sample."""
        s = self._settings
        order = random.generator(s.seed, random.SHUFFLE, self.epoch + 1).permutation(len(train))
        draws = torch.Generator(s.device)
        draws.manual_seed(int(random.generator(s.seed, random.LATENT, self.epoch + 1).integers(1 << 62)))
        batches = math.ceil(len(train) / s.batch_size)
        total = 0.0
        for i in range(batches):
            picks = order[i * s.batch_size : (i + 1) * s.batch_size]
            batch = self._augment(to_tensor(train[picks], s.device), draws)
            total += self._step(batch, draws, batches) * len(picks)
            on_batch(i + 1, batches)
        return total / len(train)

    def _step(self, batch: Tensor, draws: torch.Generator, batches: int) -> float:
        """Take one step of gradient descent and return the batch's mean cost, nats per sample."""
        self.current_lr = self._learning_rate(batches)
        self._prepare_step()
        cost, loss = self._loss(batch, draws)
        (loss / self.dims).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._settings.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the loss is no longer finite in epoch {self.epoch + 1} (step {self.step}); {self.remedy}"
            )
        self.optimizer.step(self.current_lr)
        self.step += 1
        decay = min(self._settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, weight in zip(self.average.parameters(), self.module.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        return float(cost.detach())

    def _learning_rate(self, batches: int) -> float:
        """Linear warm-up, then half a cosine to zero at the last step."""
        s = self._settings
        steps = batches * s.epochs
        warmup = min(s.warmup, steps // 10)
        if self.step < warmup:
            return s.learning_rate * (self.step + 1) / warmup
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(1, steps - warmup)))

    def state(self) -> dict[str, Tensor]:
        """All tensors that `restore` needs, by name; copies on the CPU."""
        tensors = {f"weights.{name}": t for name, t in self.module.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in self.optimizer.state().items()}
        tensors["progress"] = torch.tensor([self.epoch, self.step])
        plain = torch.contiguous_format
        return {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from the `state` of a fit with an equal configuration and equal settings.

        Raises:
            TrainingError: a tensor is missing, unknown, or of another shape.
        """
        try:
            self._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the state is of another training ({error!s:.200}); use a new --out") from error

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(_without_prefix("weights.", state))
        self.average.load_state_dict(_without_prefix("average.", state))
        self.optimizer.restore(_without_prefix("optimizer.", state))
        self.epoch, self.step = (int(n) for n in state["progress"])


def _without_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
