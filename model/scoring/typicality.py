"""Typicality: one score of how far out an input lies, made of many that free energy alone does not show.

It is the sum of three surprises, each brought to mean 0 and variance 1 on the model's own data: that of the latent
mean, under a density of such means; that of a few sizes (distortion, rate, the norms of mean and standard deviation,
the residual, complexity; where Q was refined, regret) under a density of theirs; and free energy. The first and the
last are held against what they usually are for inputs of the same complexity. An input can be cheap to code and yet lie
where no data lies: a black image, or a shoe upside down (Nalisnick et al. 2019, arXiv 1906.02994).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.likelihoods import Gaussian
from model.scoring.complexity import Trend, complexity
from model.scoring.mixture import Mixture
from model.vae import VAE

Floats = NDArray[np.float64]
#: Most components of the density of latent means, and what is added to their variances; the prior's variance is 1.
LATENT_COMPONENTS, LATENT_RIDGE = 32, 0.05
#: The same of the density of sizes, each of which is brought to a variance of 1 before.
SIZE_COMPONENTS, SIZE_RIDGE = 8, 0.01
#: How much the surprises count: of the latent, of the sizes, of free energy.
WEIGHTS = np.array([1.0, 0.5, 0.5])
#: What is held against its complexity cannot make up for more than this, in standard deviations: where complexity
#: itself is far out, nobody knows what is usual.
FLOOR = -3.0


@runtime_checkable
class Costs(Protocol):
    """What typicality needs of the scores of n inputs, nats."""

    @property
    def distortion(self) -> Floats: ...
    @property
    def free_energy(self) -> Floats: ...


@dataclass(frozen=True)
class Sizes:
    """What typicality needs to know of n inputs beside their scores."""

    mean: Floats  # of the encoder's Q, n x latent
    scale_norm: Floats
    rate: Floats  # analytic, nats
    residual: Floats  # root mean square of x - E[x | z = mean], in the units that the networks see
    complexity: Floats  # n x measures

    @classmethod
    def of(
        cls, vae: VAE, x: Float[Tensor, "batch *data"], q: Gaussian, decoded: Float[Tensor, "batch *data"] | None = None
    ) -> "Sizes":
        """Of inputs and the encoder's Q of each; costs one decoding each, of the mean of Q, where it is not given."""
        if decoded is None:
            decoded = vae.decode(q.mean).mean
        measured = complexity(x, vae.config.data)
        columns = (q.mean, q.scale.norm(dim=1), q.rate().sum(1), residual(vae, x, decoded), measured)
        return cls(*(column.cpu().double().numpy() for column in columns))


def residual(
    vae: VAE, x: Float[Tensor, "batch *data"], decoded: Float[Tensor, "batch *data"]
) -> Float[Tensor, "batch"]:
    """Root mean square, over the dimensions of x, of what its decoding misses; one per row."""
    missed = vae.standardize(x) - vae.standardize(decoded)
    rms: Tensor = missed.flatten(1).square().mean(1).sqrt()
    return rms


def fit_latents(means: Floats) -> Mixture:
    """The density of the latent means of inputs that the model was fitted to, n x latent."""
    return Mixture.fit(means, components=LATENT_COMPONENTS, ridge=LATENT_RIDGE)


@dataclass(frozen=True)
class Typical:
    """What is typical of scores that were made in one way."""

    latents: Mixture
    sizes: Mixture
    shift: Floats  # of each size
    unit: Floats
    trend: Trend  # of the surprise of the latent, and of free energy
    center: Floats  # of the three surprises
    spread: Floats

    @classmethod
    def fit(cls, latents: Mixture, sizes: Sizes, scores: Costs, regret: Floats | None) -> "Typical":
        """Fit to inputs that did not fit the model."""
        table = _table(sizes, scores, regret)
        shift, unit = table.mean(axis=0), table.std(axis=0)
        # A size that does not vary has no scale of its own; 1 leaves it as it is.
        unit[unit <= 1e-6 * np.maximum(1, np.abs(shift))] = 1.0
        fitted = Mixture.fit((table - shift) / unit, components=SIZE_COMPONENTS, ridge=SIZE_RIDGE)
        held = np.stack([latents.nlog_density(sizes.mean), scores.free_energy], axis=1)
        trend = Trend.fit(sizes.complexity, held)
        raw = cls(latents, fitted, shift, unit, trend, np.zeros(3), np.ones(3))
        surprises = raw.surprises(sizes, scores, regret)
        center, spread = surprises.mean(axis=1), np.maximum(surprises.std(axis=1), 1e-9)
        return cls(latents, fitted, shift, unit, trend, center, spread)

    def surprises(self, sizes: Sizes, scores: Costs, regret: Floats | None) -> Floats:
        """Of the latent mean, of the sizes, and free energy; 3 x n."""
        table = (_table(sizes, scores, regret) - self.shift) / self.unit
        usual = self.trend(sizes.complexity).T
        of_latent, of_sizes = self.latents.nlog_density(sizes.mean), self.sizes.nlog_density(table)
        raw = np.stack([of_latent - usual[0], of_sizes, scores.free_energy - usual[1]])
        return (raw - self.center[:, None]) / self.spread[:, None]

    def score(self, sizes: Sizes, scores: Costs, regret: Floats | None) -> Floats:
        """Typicality of n inputs: about 0 for typical ones, larger further out; without a unit."""
        surprises = self.surprises(sizes, scores, regret)
        surprises[[0, 2]] = np.maximum(surprises[[0, 2]], FLOOR)
        typicality: Floats = WEIGHTS @ surprises
        return typicality


def _table(sizes: Sizes, scores: Costs, regret: Floats | None) -> Floats:
    """n x sizes. Logs of what is positive: such a size matters by its ratio to others."""
    positive = (sizes.rate, np.linalg.norm(sizes.mean, axis=1), sizes.scale_norm, sizes.residual)
    columns = [scores.distortion, *(np.log(column + 1e-6) for column in positive), *sizes.complexity.T]
    return np.stack(columns if regret is None else [*columns, regret], axis=1)
