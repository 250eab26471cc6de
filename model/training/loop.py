"""Training by stochastic gradient descent on the free energy, with one reparameterized draw per sample.

    loss = mean over the batch of [nlog P(x|z) + KL(Q(z|x), P(z))],  z = mean + scale * noise

(Doersch 2016; Kingma & Welling 2014.)

An autoregressive likelihood can learn to ignore z. The weight `auxiliary` adds the distortion of each byte without its
neighbours to the loss, so that z keeps describing the image (Lucas & Verbeek 2018, arXiv 1711.11479).

Every step moves the encoder, which fits Q. With `inference_steps` of N only every N-th step also moves the decoder, so
that Q keeps up with the posterior of P (He et al. 2019, arXiv 1901.05534).
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from model import random
from model.config import ModelConfig
from model.errors import TrainingError
from model.record import EpochRecord
from model.scoring.free_energy import log_weight_terms
from model.training.augmentation import mirrored, shifted
from model.training.fit import Array, Fit, FitSettings, FittedEpoch
from model.vae import VAE, to_tensor

PrecisionName = Literal["float32", "bfloat16"]


class TrainingSettings(FitSettings):
    """Settings of a training.

    `inference_steps` is the number of encoder steps per decoder step. `auxiliary` is the weight of the extra loss of
    autoregressive likelihoods. `held_out` and `set_aside` are the sizes of the validation and calibration splits.
    `precision` applies to the networks; likelihoods are always float32. `flip` mirrors each image of a step left to
    right with probability 1/2; `shift` is the most pixels that it is moved by, across and down.
    """

    inference_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    auxiliary: Annotated[float, Field(ge=0, le=100)] = 0.3
    held_out: Annotated[int, Field(ge=1)]
    set_aside: Annotated[int, Field(ge=0)] = 0
    precision: PrecisionName = "float32"
    flip: bool = False
    shift: Annotated[int, Field(ge=0, le=64)] = 0


class Training(Fit[VAE, EpochRecord]):
    """One training of a model."""

    remedy = "start again in a new folder with a smaller --learning-rate"

    def __init__(self, config: ModelConfig, settings: TrainingSettings) -> None:
        self.settings = settings
        # Weights are initialized from torch's global generator; the fork leaves the caller's state unchanged.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            vae, average = (_to_device(VAE(config), settings.device) for _ in range(2))
        super().__init__(vae, average, settings, config.data.dims)

    @property
    def vae(self) -> VAE:
        """The weights that the steps move."""
        return self.module

    def _augment(self, batch: Tensor, draws: torch.Generator) -> Tensor:
        batch = mirrored(batch, draws) if self.settings.flip else batch
        return shifted(batch, self.settings.shift, draws) if self.settings.shift else batch

    def _prepare_step(self) -> None:
        for part in (self.vae.decoder, self.vae.head):
            part.requires_grad_((self.step + 1) % self.settings.inference_steps == 0)

    def _loss(self, batch: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean free energy of the batch, and the loss."""
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            q = self.vae.encode(batch)
            z = q.draw(torch.randn(q.mean.shape, generator=draws, device=batch.device))
            p = self.vae.decode(z)
        free_energy: Tensor = (p.nlog_prob(batch).flatten(1).sum(1) + self.vae.prior.rate(q, z)).mean()
        auxiliary = p.auxiliary_nlog_prob(batch) if self.settings.auxiliary else None
        if auxiliary is None:
            return free_energy, free_energy
        return free_energy, free_energy + self.settings.auxiliary * auxiliary.flatten(1).sum(1).mean()

    def _record(self, validation: Array, epoch: FittedEpoch) -> EpochRecord:
        free_energy, distortion, rate = self.score(self.average, validation)
        if not np.isfinite(free_energy).all():
            worst = int(np.argmin(np.isfinite(free_energy)))
            raise TrainingError(
                f"held-out sample {worst} has a free energy that is not finite after epoch {epoch.epoch}; check the "
                f"data for extreme values, or {self.remedy}"
            )
        mean = float(free_energy.mean())
        return EpochRecord(
            epoch=epoch.epoch,
            free_energy=mean,
            distortion=float(distortion.mean()),
            rate=float(rate.mean()),
            bits_per_dim=mean / (self.dims * math.log(2)) if self.vae.levels else None,
            train_free_energy=epoch.cost,
            learning_rate=epoch.learning_rate,
            seconds=epoch.seconds,
            samples_per_second=epoch.samples_per_second,
        )

    @torch.inference_mode()
    def score(self, vae: VAE, samples: Array) -> NDArray[np.float64]:
        """Free energy, distortion and rate (3 x n), in nats, from one draw per sample that is equal in all epochs."""
        draws = random.normal(self.settings.seed, (len(samples), self.vae.config.latent))
        parts = []
        for start in range(0, len(samples), 256):
            x, noise = (to_tensor(a[start : start + 256], self.settings.device) for a in (samples, draws))
            t = log_weight_terms(vae, x, vae.encode(x), noise)
            rate = t.cross_entropy - t.nlog_q
            parts.append(torch.stack([t.distortion + rate, t.distortion, rate]).cpu().double().numpy())
        return np.concatenate(parts, axis=1)


def _to_device(vae: VAE, device: str) -> VAE:
    """Move a model to a device, in the memory layout that is fastest for convolutions."""
    moved: VAE = vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
