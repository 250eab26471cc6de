"""Training by stochastic gradient descent on the free energy, with one reparameterized draw per sample.

    loss = mean over the batch of [-log P(x|z) + KL(Q(z|x), P(z))],  z = mean + scale * noise

(Doersch 2016; Kingma & Welling 2014.)

An autoregressive likelihood can learn to ignore z. The weight `auxiliary` adds the distortion of each byte without its
neighbours to the loss, so that z keeps describing the image (Lucas & Verbeek 2018, arXiv 1711.11479).

Every step moves the encoder, which fits Q. With `inference_steps` of N only every N-th step also moves the decoder, so
that Q keeps up with the posterior of P (He et al. 2019, arXiv 1901.05534).

All noise and the order of samples follow from (seed, epoch), so that a restored training gives the same results as an
uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from model import random
from model.config import Frozen, ModelConfig
from model.errors import TrainingError
from model.record import EpochRecord
from model.scoring.free_energy import log_weight_terms
from model.training.optimizer import Optimizer
from model.vae import VAE, to_tensor

Array = NDArray[Any]


class TrainingSettings(Frozen):
    """Settings of a training.

    `warmup` is a number of steps. `clip` limits the norm of the gradient of nats per dimension. `average` is the decay
    of the running average of the weights. `inference_steps` is the number of encoder steps per decoder step.
    `auxiliary` is the weight of the extra loss of autoregressive likelihoods. `held_out` and `set_aside` are the sizes
    of the validation and calibration splits. `precision` applies to the networks; likelihoods are always float32.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1 << 16)] = 128
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 200
    clip: Annotated[float, Field(gt=0)] = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    inference_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    auxiliary: Annotated[float, Field(ge=0, le=100)] = 0.3
    held_out: Annotated[int, Field(ge=1)]
    set_aside: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"


class Training:
    """One training: the weights, their running average (which is validated and saved), and the optimizer."""

    def __init__(self, config: ModelConfig, settings: TrainingSettings) -> None:
        self.settings = settings
        # Weights are initialized from torch's global generator; the fork leaves the caller's state unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.vae = _to_device(VAE(config), settings.device)
            self.average = _to_device(VAE(config), settings.device)
        self.average.load_state_dict(self.vae.state_dict())
        self.average.eval().requires_grad_(False)
        self.optimizer = Optimizer(
            self.vae, settings.optimizer, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.current_lr, self.epoch, self.step = 0.0, 0, 0

    def epochs(
        self, train: Array, validation: Array, on_batch: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[EpochRecord]:
        """Train to the last epoch and yield one record per epoch.

        Args:
            train, validation: samples as a dataset gives them.
            on_batch: called with the number of finished batches and of all batches of this epoch.

        Raises:
            TrainingError: the loss or the free energy of a validation sample is not finite.
        """
        while self.epoch < self.settings.epochs:
            started = time.perf_counter()
            loss = self._train_epoch(train, on_batch)
            self.epoch += 1
            seconds = time.perf_counter() - started
            yield self._validate(validation, loss, seconds, len(train) / seconds)

    def _train_epoch(self, train: Array, on_batch: Callable[[int, int], None]) -> float:
        """Train for one epoch and return the mean free energy, nats per sample."""
        s = self.settings
        order = random.generator(s.seed, random.SHUFFLE, self.epoch + 1).permutation(len(train))
        draws = torch.Generator(s.device)
        draws.manual_seed(int(random.generator(s.seed, random.LATENT, self.epoch + 1).integers(1 << 62)))
        batches = math.ceil(len(train) / s.batch_size)
        total = 0.0
        for i in range(batches):
            picks = order[i * s.batch_size : (i + 1) * s.batch_size]
            total += self._step(to_tensor(train[picks], s.device), draws, batches) * len(picks)
            on_batch(i + 1, batches)
        return total / len(train)

    def _step(self, x: Tensor, draws: torch.Generator, batches: int) -> float:
        """Take one step of gradient descent and return the batch's mean free energy, nats per sample."""
        self.current_lr = self._learning_rate(batches)
        for part in (self.vae.decoder, self.vae.head):
            part.requires_grad_((self.step + 1) % self.settings.inference_steps == 0)
        free_energy, loss = self._loss(x, draws)
        # Nats per dimension make the size of gradients, and so `clip`, independent of the size of the data.
        (loss / self.vae.config.data.dims).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.settings.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the loss is no longer finite in epoch {self.epoch + 1} (step {self.step}); start again in a new "
                "folder with a smaller --learning-rate"
            )
        self.optimizer.step(self.current_lr)
        self.step += 1
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, weight in zip(self.average.parameters(), self.vae.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        return float(free_energy.detach())

    def _loss(self, x: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean free energy of the batch and the loss to minimize, both in nats per sample."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            q = self.vae.encode(x)
            z = q.draw(torch.randn(q.mean.shape, generator=draws, device=x.device))
            p = self.vae.decode(z)
        free_energy: Tensor = (p.nlog_prob(x).flatten(1).sum(1) + q.rate().sum(1)).mean()
        auxiliary = p.auxiliary_nlog_prob(x) if self.settings.auxiliary else None
        if auxiliary is None:
            return free_energy, free_energy
        return free_energy, free_energy + self.settings.auxiliary * auxiliary.flatten(1).sum(1).mean()

    def _learning_rate(self, batches: int) -> float:
        """Linear warm-up, then half a cosine to zero at the last step."""
        s = self.settings
        steps = batches * s.epochs
        warmup = min(s.warmup, steps // 10)
        if self.step < warmup:
            return s.learning_rate * (self.step + 1) / warmup
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(1, steps - warmup)))

    def _validate(self, validation: Array, loss: float, seconds: float, speed: float) -> EpochRecord:
        free_energy, distortion, rate = self._score(validation)
        if not np.isfinite(free_energy).all():
            worst = int(np.argmin(np.isfinite(free_energy)))
            raise TrainingError(
                f"held-out sample {worst} has a free energy that is not finite after epoch {self.epoch}; check the "
                "data for extreme values, or start again in a new folder with a smaller --learning-rate"
            )
        mean = float(free_energy.mean())
        return EpochRecord(
            epoch=self.epoch,
            free_energy=mean,
            distortion=float(distortion.mean()),
            rate=float(rate.mean()),
            bits_per_dim=mean / (self.vae.config.data.dims * math.log(2)) if self.vae.levels else None,
            train_free_energy=loss,
            learning_rate=self.current_lr,
            seconds=seconds,
            samples_per_second=speed,
        )

    @torch.inference_mode()
    def _score(self, samples: Array) -> NDArray[np.float64]:
        """Free energy, distortion and rate (3 x n), in nats, from one draw per sample that is equal in all epochs."""
        draws = random.normal(self.settings.seed, (len(samples), self.vae.config.latent))
        parts = []
        for start in range(0, len(samples), 256):
            x, noise = (to_tensor(a[start : start + 256], self.settings.device) for a in (samples, draws))
            t = log_weight_terms(self.average, x, self.average.encode(x), noise)
            rate = t.cross_entropy - t.nlog_q
            parts.append(torch.stack([t.distortion + rate, t.distortion, rate]).cpu().double().numpy())
        return np.concatenate(parts, axis=1)

    def state(self) -> dict[str, Tensor]:
        """All tensors that `restore` needs, by name; copies on the CPU."""
        tensors = {f"weights.{name}": t for name, t in self.vae.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in self.optimizer.state().items()}
        tensors["progress"] = torch.tensor([self.epoch, self.step])
        plain = torch.contiguous_format
        return {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from the `state` of a training with an equal configuration and equal settings.

        Raises:
            TrainingError: a tensor is missing, unknown, or of another shape.
        """
        try:
            self.vae.load_state_dict(_without_prefix("weights.", state))
            self.average.load_state_dict(_without_prefix("average.", state))
            self.optimizer.restore(_without_prefix("optimizer.", state))
            self.epoch, self.step = (int(n) for n in state["progress"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the state is of another training ({error!s:.200}); use a new --out") from error


def _to_device(vae: VAE, device: str) -> VAE:
    """Move a model to a device, in the memory layout that is fastest for convolutions."""
    moved: VAE = vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _without_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
