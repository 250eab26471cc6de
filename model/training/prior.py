"""The fit of a prior to the latents of a model, which stays as it is.

    loss = mean over the batch of nlog P(z), with labels of nlog P(z|label),  z = mean + scale * noise

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
from model.prior import MAX_LABELS, FlowPrior, FlowPriorConfig, Label, Labels, Prior, StandardPrior
from model.record import PriorRecord
from model.scoring.batches import in_batches
from model.training.fit import Array, Best, Fit, FitSettings, FittedEpoch
from model.training.loop import TrainingSettings
from model.training.splits import Split
from model.vae import VAE, to_tensor

#: Means and scales of Q of many samples, side by side: n x 2 latent; then, to fit a prior with labels, the label.
Posteriors = NDArray[np.float32]
#: Fewer training samples than this keep the standard prior by default.
MIN_SAMPLES = 1000
#: Steps that the default number of epochs aims at, and its upper limit: a flow soon overfits few samples.
DEFAULT_STEPS, MAX_DEFAULT_EPOCHS = 3000, 200
#: Fewest held-out samples: one half chooses the epoch, the other half judges the flow.
MIN_HELD_OUT = 4
PriorName = Literal["standard", "flow"]


class PriorSettings(FitSettings):
    """Settings of the fit of a flow, and its architecture. A flow soon overfits, so its weights decay faster."""

    flow: FlowPriorConfig
    batch_size: Annotated[int, Field(ge=1, le=1 << 16)] = 256
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.5e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.3

    @classmethod
    def default_for(
        cls, latent: Positive, samples: int, *, labels: tuple[Label, ...] = (), seed: int = 0, device: str = "cpu"
    ) -> "PriorSettings":
        """The settings for this number of training samples."""
        width = min(384, max(64, 3 * latent))
        batches = math.ceil(samples / 256)
        return cls(
            flow=FlowPriorConfig(
                hidden=(width, width, width),
                couplings=6 if labels else 8,
                labels=labels,
                label_hidden=max(32, width // 2),
            ),
            epochs=min(MAX_DEFAULT_EPOCHS, max(1, round(DEFAULT_STEPS / batches))),
            seed=seed,
            device=device,
        )


class LearnedLabels(NamedTuple):
    """The labels that a prior distinguishes, and the index of the one that each sample has.

    The index is -1 for a held-out sample whose label no training sample has.
    """

    labels: tuple[Label, ...]
    train: Labels
    validation: Labels

    @classmethod
    def of(cls, split: Split) -> "LearnedLabels | None":
        """The labels of the training samples; None without any, with only one, or with more than `MAX_LABELS`.

        Also None if two have the same name, as folders can whose names are not UTF-8.
        """
        if split.train_labels is None or split.validation_labels is None:
            return None
        present, counts = np.unique(split.train_labels, return_counts=True)
        if not 2 <= len(present) <= MAX_LABELS:
            return None
        names = [split.label_names[label] if split.label_names else str(label) for label in present.tolist()]
        if len(set(names)) < len(names):
            return None
        shares = (counts / counts.sum()).tolist()
        labels = tuple(Label(name=name, probability=share) for name, share in zip(names, shares, strict=True))
        index = {value: index for index, value in enumerate(present.tolist())}
        train, validation = (
            np.array([index.get(value, -1) for value in values.tolist()], np.int64)
            for values in (split.train_labels, split.validation_labels)
        )
        return cls(labels, train, validation)


def choose_prior(
    name: PriorName | None, latent: int, split: Split, training: TrainingSettings, *, labels: bool = True
) -> PriorSettings | None:
    """The settings of the flow that a training is to fit; None if it keeps the standard prior.

    Args:
        name: None for a flow where there are samples enough.
        labels: learn the labels of the samples, if they have any.

    Raises:
        ConfigError: there are not two latent dimensions, or too few held-out samples, for the flow that was asked for.
    """
    if name == "flow":
        require_flow(latent, split)
    elif name == "standard" or latent < 2 or len(split.train) < MIN_SAMPLES or len(split.validation) < MIN_HELD_OUT:
        return None
    learned = LearnedLabels.of(split) if labels else None
    return PriorSettings.default_for(
        latent,
        len(split.train),
        labels=learned.labels if learned else (),
        seed=training.seed,
        device=training.device,
    )


def require_flow(latent: int, split: Split) -> None:
    """Raise `ConfigError` if no flow can be fitted to such latents and judged on these samples."""
    if latent < 2:
        raise ConfigError("prior: 'flow' is for latents of two dimensions and more; use 'standard'")
    if len(split.validation) < MIN_HELD_OUT:
        raise ConfigError(f"prior: 'flow' needs at least {MIN_HELD_OUT} held-out samples; use 'standard'")


class PriorFit(Fit[FlowPrior, PriorRecord]):
    """One fit of a flow to draws of Q."""

    remedy = "keep the prior that the model has (vae train --prior standard)"

    def __init__(self, latent: int, settings: PriorSettings) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            flow, average = (FlowPrior(latent, settings.flow).to(settings.device) for _ in range(2))
        super().__init__(flow, average, settings, latent)
        self.settings = settings
        self.best = Best(self.average)

    def start_from(self, posteriors: Posteriors) -> None:
        """Start from the Gaussian with the mean and the variances of draws of Q."""
        mean, scale = np.split(posteriors[:, : 2 * self.dims].astype(np.float64), 2, axis=1)
        std = np.sqrt(mean.var(axis=0) + np.square(scale).mean(axis=0))
        for flow in (self.module, self.average):
            flow.standardize(*(to_tensor(array, self.settings.device) for array in (mean.mean(axis=0), std)))

    def _loss(self, batch: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, scale = batch[:, : self.dims], batch[:, self.dims : 2 * self.dims]
        z = mean + scale * torch.randn(mean.shape, generator=draws, device=mean.device)
        if self.module.base is None:
            cost = self.module.nlog_prob(z).mean()
            return cost, cost
        given = self.module.nlog_prob_given(z)
        return self.module.base.mix(given).mean(), given.gather(1, batch[:, 2 * self.dims :].long()).mean()

    def _record(self, validation: Array, epoch: FittedEpoch) -> PriorRecord:
        cost = float(cross_entropies(self.average, validation, self.settings.seed).mean())
        if not math.isfinite(cost):
            raise TrainingError(f"the held-out cross-entropy is not finite after epoch {epoch.epoch}; {self.remedy}")
        self.best.offer(cost)
        return PriorRecord(
            epoch=epoch.epoch,
            cross_entropy=cost,
            train_cross_entropy=epoch.cost,
            learning_rate=epoch.learning_rate,
            seconds=epoch.seconds,
            samples_per_second=epoch.samples_per_second,
        )

    def state(self) -> dict[str, Tensor]:
        return super().state() | self.best.state()

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self.best.restore(state)

    def fitted(self) -> FlowPrior:
        """The flow of the best epoch."""
        flow = FlowPrior(self.dims, self.settings.flow).to(self.settings.device)
        flow.load_state_dict(self.best.weights)
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
    device = _device(prior)
    z = _draw(posteriors, seed)
    parts = [prior.nlog_prob(to_tensor(batch, device)) for batch in in_batches(z)]
    return torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def cross_entropies_given(prior: FlowPrior, posteriors: Posteriors, indices: Labels, seed: int) -> Floats:
    """nlog P(z|label) at one draw z of each Q, in nats, for the samples that have a label."""
    z = _draw(posteriors, seed)
    parts = [prior.nlog_prob_given(to_tensor(batch, _device(prior))).cpu() for batch in in_batches(z)]
    (known,) = np.nonzero(indices >= 0)
    return torch.cat(parts).numpy()[known, indices[known]]


def with_labels(posteriors: Posteriors, indices: Labels) -> Posteriors:
    """Posteriors with the index of the label of each, to fit a prior with labels."""
    return np.concatenate([posteriors, indices[:, None].astype(np.float32)], axis=1)


def _draw(posteriors: Posteriors, seed: int) -> Posteriors:
    """One draw z of each Q."""
    mean, scale = np.split(posteriors, 2, axis=1)
    return mean + scale * random.normal(seed, mean.shape)


def _device(prior: Prior) -> str:
    return str(next((parameter.device for parameter in prior.parameters()), "cpu"))


class PriorFigures(NamedTuple):
    """Means of nlog P(z) at one draw of Q each, in nats, as `checkpoint.PriorReport` has them."""

    held_out: float
    fitted: float
    standard: float
    held_out_given_label: float | None

    @classmethod
    def of(
        cls, flow: FlowPrior, fitted: Posteriors, held_out: Posteriors, labels: LearnedLabels | None, seed: int
    ) -> "PriorFigures":
        """Measure a flow on the posteriors of the samples that fitted it and of held-out ones."""
        given = None if labels is None else cross_entropies_given(flow, held_out, labels.validation, seed)
        return cls(
            held_out=float(cross_entropies(flow, held_out, seed).mean()),
            fitted=float(cross_entropies(flow, fitted, seed).mean()),
            standard=float(cross_entropies(StandardPrior(), held_out, seed).mean()),
            held_out_given_label=None if given is None or not len(given) else float(given.mean()),
        )


def with_flow(vae: VAE, config: FlowPriorConfig, flow: FlowPrior) -> VAE:
    """Return a copy of a model with this flow as its prior."""
    with torch.random.fork_rng(devices=[]):
        changed = VAE(vae.config.model_copy(update={"prior": config})).to(vae.device)
    weights = {name: weight for name, weight in vae.state_dict().items() if not name.startswith("prior.")}
    weights |= {f"prior.{name}": weight for name, weight in flow.state_dict().items()}
    changed.load_state_dict(weights)
    return changed.eval().requires_grad_(False)
