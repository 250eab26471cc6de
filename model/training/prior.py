"""The fit of a prior to the latents of a model, which stays as it is.

    loss = mean over the batch of nlog P(z),  z = mean + scale * noise

The mean over draws of Q is the cross-entropy E_Q[nlog P(z)], the only term of free energy that the prior decides.
"""

import math
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from model import random
from model.data import Floats, Positive
from model.errors import ConfigError, TrainingError
from model.prior import FlowPrior, FlowPriorConfig, Prior
from model.record import PriorRecord
from model.scoring.batches import in_batches
from model.training.fit import Array, Fit, FitSettings, FittedEpoch
from model.training.loop import TrainingSettings
from model.training.splits import Split
from model.vae import VAE, to_tensor

#: Means and scales of Q of many samples, side by side: n x 2 latent.
Posteriors = NDArray[np.float32]
#: Fewer training samples than this keep the standard prior by default.
MIN_SAMPLES = 1000
#: Steps that the default number of epochs aims at, and its upper limit: a flow soon overfits few samples.
DEFAULT_STEPS, MAX_DEFAULT_EPOCHS = 3000, 200
#: Fewest held-out samples: one half chooses the epoch, the other half judges the flow.
MIN_HELD_OUT = 4
#: A flow is kept if its gain on held-out samples is more than this many standard errors.
MIN_GAIN_ERRORS = 2.0
PriorName = Literal["standard", "flow"]


class PriorSettings(FitSettings):
    """Settings of the fit of a flow, and its architecture."""

    flow: FlowPriorConfig
    batch_size: Annotated[int, Field(ge=1, le=1 << 16)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.5e-3

    @classmethod
    def default_for(cls, latent: Positive, samples: int, *, seed: int = 0, device: str = "cpu") -> "PriorSettings":
        """The settings for this number of training samples."""
        width = min(384, max(64, 3 * latent))
        batches = math.ceil(samples / 256)
        return cls(
            flow=FlowPriorConfig(hidden=(width, width, width)),
            epochs=min(MAX_DEFAULT_EPOCHS, max(1, round(DEFAULT_STEPS / batches))),
            seed=seed,
            device=device,
        )


def choose_prior(name: PriorName | None, latent: int, split: Split, training: TrainingSettings) -> PriorSettings | None:
    """The settings of the flow that a training is to fit; None if it keeps the standard prior.

    Args:
        name: None for a flow where there are samples enough.

    Raises:
        ConfigError: there are not two latent dimensions, or too few held-out samples, for the flow that was asked for.
    """
    if name == "flow":
        require_flow(latent, split)
    elif name == "standard" or latent < 2 or len(split.train) < MIN_SAMPLES or len(split.validation) < MIN_HELD_OUT:
        return None
    return PriorSettings.default_for(latent, len(split.train), seed=training.seed, device=training.device)


def require_flow(latent: int, split: Split) -> None:
    """Raise `ConfigError` if no flow can be fitted to such latents and judged on these samples."""
    if latent < 2:
        raise ConfigError("prior: 'flow' is for latents of two dimensions and more; use 'standard'")
    if len(split.validation) < MIN_HELD_OUT:
        raise ConfigError(f"prior: 'flow' needs at least {MIN_HELD_OUT} held-out samples; use 'standard'")


class PriorFit(Fit[FlowPrior, PriorRecord]):
    """One fit of a flow to draws of Q. `best` are the averaged weights of the epoch with the lowest held-out cost."""

    remedy = "keep the prior that the model has (vae train --prior standard)"

    def __init__(self, latent: int, settings: PriorSettings) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            flow, average = (FlowPrior(latent, settings.flow).to(settings.device) for _ in range(2))
        super().__init__(flow, average, settings, latent)
        self.settings = settings
        self.best, self.best_cost = self.average.state_dict(), math.inf

    def start_from(self, posteriors: Posteriors) -> None:
        """Start from the Gaussian with the mean and the variances of draws of Q."""
        mean, scale = np.split(posteriors.astype(np.float64), 2, axis=1)
        std = np.sqrt(mean.var(axis=0) + np.square(scale).mean(axis=0))
        for flow in (self.module, self.average):
            flow.standardize(*(to_tensor(array, self.settings.device) for array in (mean.mean(axis=0), std)))

    def _loss(self, batch: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, scale = batch.chunk(2, dim=1)
        z = mean + scale * torch.randn(mean.shape, generator=draws, device=mean.device)
        cost = self.module.nlog_prob(z).mean()
        return cost, cost

    def _record(self, validation: Array, epoch: FittedEpoch) -> PriorRecord:
        cost = float(cross_entropies(self.average, validation, self.settings.seed).mean())
        if not math.isfinite(cost):
            raise TrainingError(f"the held-out cross-entropy is not finite after epoch {epoch.epoch}; {self.remedy}")
        if cost < self.best_cost:
            self.best_cost = cost
            self.best = {name: weight.clone() for name, weight in self.average.state_dict().items()}
        return PriorRecord(
            epoch=epoch.epoch,
            cross_entropy=cost,
            train_cross_entropy=epoch.cost,
            learning_rate=epoch.learning_rate,
            seconds=epoch.seconds,
            samples_per_second=epoch.samples_per_second,
        )

    def state(self) -> dict[str, Tensor]:
        best = {f"best.{name}": weight.detach().cpu().clone() for name, weight in self.best.items()}
        return {**super().state(), **best, "best_cost": torch.tensor(self.best_cost, dtype=torch.float64)}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self.best = {name: state[f"best.{name}"].clone() for name in self.average.state_dict()}
        self.best_cost = float(state["best_cost"])

    def fitted(self) -> FlowPrior:
        """The flow of the best epoch."""
        flow = FlowPrior(self.dims, self.settings.flow).to(self.settings.device)
        flow.load_state_dict(self.best)
        return flow.eval().requires_grad_(False)


@torch.inference_mode()
def posteriors(vae: VAE, samples: Array) -> Posteriors:
    """Q of samples as a dataset gives them."""
    parts = []
    for batch in in_batches(samples):
        q = vae.encode(to_tensor(batch, str(vae.device)))
        parts.append(torch.cat([q.mean, q.scale.expand_as(q.mean)], dim=1).float().cpu().numpy())
    return np.concatenate(parts)


@torch.inference_mode()
def cross_entropies(prior: Prior, posteriors: Posteriors, seed: int) -> Floats:
    """nlog P(z) at one draw z of each Q, in nats; the same draws for every prior."""
    device = next((parameter.device for parameter in prior.parameters()), torch.device("cpu"))
    mean, scale = np.split(posteriors, 2, axis=1)
    z = mean + scale * random.normal(seed, mean.shape)
    parts = [prior.nlog_prob(to_tensor(batch, str(device))) for batch in in_batches(z)]
    return torch.cat(parts).cpu().numpy()


class Gain(NamedTuple):
    """Mean cross-entropy that one prior saves against another, in nats, and its standard error."""

    nats: float
    error: float

    @classmethod
    def of(cls, prior: Prior, other: Prior, posteriors: Posteriors, seed: int) -> "Gain":
        """Compare from one draw of each Q. These samples must neither have fitted a prior nor chosen its epoch."""
        saved = cross_entropies(other, posteriors, seed) - cross_entropies(prior, posteriors, seed)
        return cls(float(saved.mean()), float(saved.std(ddof=1) / math.sqrt(len(saved))))

    @property
    def clear(self) -> bool:
        """True if the gain is more than chance."""
        return self.nats > MIN_GAIN_ERRORS * self.error


def with_flow(vae: VAE, config: FlowPriorConfig, flow: FlowPrior) -> VAE:
    """Return a copy of a model with this flow as its prior."""
    with torch.random.fork_rng(devices=[]):
        changed = VAE(vae.config.model_copy(update={"prior": config})).to(vae.device)
    weights = {name: weight for name, weight in vae.state_dict().items() if not name.startswith("prior.")}
    weights |= {f"prior.{name}": weight for name, weight in flow.state_dict().items()}
    changed.load_state_dict(weights)
    return changed.eval().requires_grad_(False)
