"""Training by stochastic gradient descent on the free energy, one reparameterized draw per sample.

    loss = mean over the batch of [nlog P(x|z) + KL(Q(z|x), P(z))],  z = mean + scale * noise

(Doersch 2016; Kingma & Welling 2014.) An autoregressive likelihood could learn to do without z; `auxiliary` times the
distortion of its bytes as they are without their neighbours is added, so that z goes on to say what the picture shows
(Lucas & Verbeek 2018, arXiv 1711.11479). Every step moves the encoder, which fits Q; with `inference_steps` of N only
every N-th moves the decoder too, so that Q keeps up with the P that it is to invert (He et al. 2019, arXiv 1901.05534).
`Training.epochs` is a generator of one record an epoch; the caller logs, plots
and saves. All noise and order come from (seed, epoch), so that a training restored from its state goes on as if it
had never stopped.
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
    """How to train.

    `warmup` is in steps; `clip` bounds the norm of the gradient of nats per dimension; `average` is the decay of the
    running average of the weights; `inference_steps` counts the encoder's steps for one of the decoder's; `auxiliary`
    is the weight of an added loss, of autoregressive likelihoods alone; `held_out` samples never fit a weight, they
    choose the best epoch; those `set_aside` do neither, they calibrate scores; `precision` is that of the networks,
    while likelihoods are always float32.
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
    """One training: the weights, their running average (which is what is judged and saved), the optimizer.

    `state` and `restore` carry all of it through plain tensors.
    """

    def __init__(self, config: ModelConfig, settings: TrainingSettings) -> None:
        self.settings = settings
        # Weights are initialized from torch's global generator; fork it, so that the caller's is left alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.vae = _placed(VAE(config), settings.device)
            self.average = _placed(VAE(config), settings.device)
        self.average.load_state_dict(self.vae.state_dict())
        self.average.eval().requires_grad_(False)
        self.optimizer = Optimizer(
            self.vae,
            name=settings.optimizer,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.rate = 0.0
        self.epoch = 0
        self.step = 0

    def epochs(
        self, fit: Array, held_out: Array, on_batch: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[EpochRecord]:
        """Train to the last epoch, yielding one record after each.

        Args:
            fit, held_out: samples as a dataset gives them.
            on_batch: called with the number of batches done and to do in this epoch.

        Raises:
            TrainingError: the loss is no longer finite.
        """
        while self.epoch < self.settings.epochs:
            started = time.perf_counter()
            loss = self._fit(fit, on_batch)
            self.epoch += 1
            seconds = time.perf_counter() - started
            yield self._judge(held_out, loss, seconds, len(fit) / seconds)

    def _fit(self, fit: Array, on_batch: Callable[[int, int], None]) -> float:
        s = self.settings
        order = random.generator(s.seed, random.SHUFFLE, self.epoch + 1).permutation(len(fit))
        draws = torch.Generator(s.device)
        draws.manual_seed(int(random.generator(s.seed, random.LATENT, self.epoch + 1).integers(1 << 62)))
        batches = math.ceil(len(fit) / s.batch_size)
        total = 0.0
        for i in range(batches):
            picks = order[i * s.batch_size : (i + 1) * s.batch_size]
            total += self._descend(to_tensor(fit[picks], s.device), draws, batches) * len(picks)
            on_batch(i + 1, batches)
        return total / len(fit)

    def _descend(self, x: Tensor, draws: torch.Generator, batches: int) -> float:
        """One step of gradient descent; the batch's mean free energy, nats per sample."""
        self.rate = self._learning_rate(batches)
        both = (self.step + 1) % self.settings.inference_steps == 0
        for part in (self.vae.decoder, self.vae.head):
            part.requires_grad_(both)
        free_energy, loss = self._loss(x, draws)
        # Nats per dimension keep the size of gradients, and so the clip, alike for all sizes of data.
        (loss / self.vae.config.data.dims).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.settings.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the loss is no longer finite in epoch {self.epoch + 1} (step {self.step}); start again in a new "
                "folder with a smaller --learning-rate"
            )
        self.optimizer.step(self.rate)
        self.step += 1
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, weight in zip(self.average.parameters(), self.vae.parameters(), strict=True):
                average.lerp_(weight, 1 - keep)
        return float(free_energy.detach())

    def _loss(self, x: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The batch's mean free energy, and what is descended on; nats per sample."""
        low = self.settings.precision == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
            q = self.vae.encode(x)
            z = q.draw(torch.randn(q.mean.shape, generator=draws, device=x.device))
            p = self.vae.decode(z)
        free_energy: Tensor = (p.nlog_prob(x).flatten(1).sum(1) + q.rate().sum(1)).mean()
        auxiliary = p.auxiliary_nlog_prob(x) if self.settings.auxiliary else None
        if auxiliary is None:
            return free_energy, free_energy
        return free_energy, free_energy + self.settings.auxiliary * auxiliary.flatten(1).sum(1).mean()

    def _learning_rate(self, batches: int) -> float:
        """Linear warm-up, then half a cosine down to zero at the last step."""
        s = self.settings
        steps = batches * s.epochs
        warmup = min(s.warmup, steps // 10)
        if self.step < warmup:
            return s.learning_rate * (self.step + 1) / warmup
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(1, steps - warmup)))

    def _judge(self, held_out: Array, loss: float, seconds: float, speed: float) -> EpochRecord:
        free_energy, distortion, rate = self._score(held_out)
        if not np.isfinite(free_energy).all():
            worst = int(np.argmin(np.isfinite(free_energy)))
            raise TrainingError(
                f"held-out sample {worst} has a free energy that is not finite after epoch {self.epoch}; look for "
                "values far out in the data, or start again in a new folder with a smaller --learning-rate"
            )
        levels = self.vae.levels
        mean = float(free_energy.mean())
        return EpochRecord(
            epoch=self.epoch,
            free_energy=mean,
            distortion=float(distortion.mean()),
            rate=float(rate.mean()),
            bits_per_dim=mean / (self.vae.config.data.dims * math.log(2)) if levels else None,
            train_free_energy=loss,
            learning_rate=self.rate,
            seconds=seconds,
            samples_per_second=speed,
        )

    @torch.inference_mode()
    def _score(self, held_out: Array) -> NDArray[np.float64]:
        """Free energy, distortion and rate (3 x n) of each sample from a draw of its own, the same in every epoch."""
        draws = random.normal(self.settings.seed, (len(held_out), self.vae.config.latent))
        parts = []
        for start in range(0, len(held_out), 256):
            x = to_tensor(held_out[start : start + 256], self.settings.device)
            t = log_weight_terms(
                self.average, x, self.average.encode(x), to_tensor(draws[start : start + 256], str(x.device))
            )
            rate = t.cross_entropy - t.nlog_q
            parts.append(torch.stack([t.distortion + rate, t.distortion, rate]).cpu().double().numpy())
        return np.concatenate(parts, axis=1)

    def state(self) -> dict[str, Tensor]:
        """All that a later `restore` needs, as tensors by name."""
        tensors = {f"weights.{name}": t for name, t in self.vae.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in self.optimizer.state().items()}
        tensors["progress"] = torch.tensor([self.epoch, self.step])
        plain = torch.contiguous_format
        return {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of a training with the same configuration and settings.

        Raises:
            TrainingError: a tensor is missing, unknown, or of another shape.
        """
        try:
            self._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the state is not that of this training ({error!s:.200}); use a new --out") from error

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.vae.load_state_dict(_under("weights.", state))
        self.average.load_state_dict(_under("average.", state))
        self.optimizer.restore(_under("optimizer.", state))
        self.epoch, self.step = (int(n) for n in state["progress"])


def _placed(vae: VAE, device: str) -> VAE:
    """On its device, with the memory layout that convolutions are fastest in."""
    placed: VAE = vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
