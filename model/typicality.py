"""Typicality: one score of how far out an input lies, made of many that free energy alone does not show.

It is the sum of two surprises under densities that are fitted to the model's own data, each brought to mean 0 and
variance 1 there: that of the latent mean, and that of a few sizes (distortion, rate, the norms of mean and standard
deviation, the residual; where Q was refined, regret). An input can be cheap to code and yet lie where no data lies:
a black image, or a shoe upside down (Nalisnick et al. 2019, arXiv 1906.02994).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.free_energy import FreeEnergy
from model.likelihoods import Gaussian
from model.mixture import Mixture
from model.vae import VAE

Floats = NDArray[np.float64]
#: Most components of the density of latent means, and what is added to their variances; the prior's variance is 1.
LATENT_COMPONENTS, LATENT_RIDGE = 32, 0.05
#: The same of the density of sizes, each of which is brought to a variance of 1 before.
SIZE_COMPONENTS, SIZE_RIDGE = 8, 0.01
#: How much the surprise of the sizes counts beside that of the latent.
SIZE_WEIGHT = 0.5


@dataclass(frozen=True)
class Sizes:
    """What typicality needs to know of n inputs beside their scores."""

    mean: Floats  # of the encoder's Q, n x latent
    scale_norm: Floats
    rate: Floats  # analytic, nats
    residual: Floats  # root mean square of x - E[x | z = mean], in the units that the networks see

    @classmethod
    def of(cls, vae: VAE, x: Float[Tensor, "batch *data"], q: Gaussian) -> "Sizes":
        """Of inputs and the encoder's Q of each; costs one decoding each."""
        columns = (q.mean, q.scale.norm(dim=1), q.rate().sum(1), residual(vae, x, q.mean))
        return cls(*(column.cpu().double().numpy() for column in columns))


def residual(vae: VAE, x: Float[Tensor, "batch *data"], mean: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
    """Root mean square, over the dimensions of x, of what the decoding of the mean misses; one per row."""
    missed = vae.standardize(x) - vae.standardize(vae.decode(mean).mean)
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
    center: Floats  # of the two surprises
    spread: Floats

    @classmethod
    def fit(cls, latents: Mixture, sizes: Sizes, scores: FreeEnergy, regret: Floats | None) -> "Typical":
        """Fit to inputs that did not fit the model."""
        table = _table(sizes, scores, regret)
        shift, unit = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-9)
        fitted = Mixture.fit((table - shift) / unit, components=SIZE_COMPONENTS, ridge=SIZE_RIDGE)
        raw = cls(latents, fitted, shift, unit, np.zeros(2), np.ones(2))
        surprises = raw.surprises(sizes, scores, regret)
        return cls(latents, fitted, shift, unit, surprises.mean(axis=1), np.maximum(surprises.std(axis=1), 1e-9))

    def surprises(self, sizes: Sizes, scores: FreeEnergy, regret: Floats | None) -> Floats:
        """Of the latent mean and of the sizes, 2 x n."""
        table = (_table(sizes, scores, regret) - self.shift) / self.unit
        nlogs = np.stack([self.latents.nlog_density(sizes.mean), self.sizes.nlog_density(table)])
        return (nlogs - self.center[:, None]) / self.spread[:, None]

    def score(self, sizes: Sizes, scores: FreeEnergy, regret: Floats | None) -> Floats:
        """Typicality of n inputs: about 0 for typical ones, larger further out; without a unit."""
        of_latent, of_sizes = self.surprises(sizes, scores, regret)
        typicality: Floats = of_latent + SIZE_WEIGHT * of_sizes
        return typicality


def _table(sizes: Sizes, scores: FreeEnergy, regret: Floats | None) -> Floats:
    """n x 5, or 6 with regret. Logs of what is positive: such a size matters by its ratio to others."""
    positive = (sizes.rate, np.linalg.norm(sizes.mean, axis=1), sizes.scale_norm, sizes.residual)
    columns = [scores.distortion, *(np.log(column + 1e-6) for column in positive)]
    return np.stack(columns if regret is None else [*columns, regret], axis=1)
