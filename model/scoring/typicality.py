"""Typicality: one score that combines many signs of an unusual input, most of which free energy alone does not show.

It is a weighted sum of three surprises, each standardized to mean 0 and variance 1 on the model's own data:

1. of the latent mean, under a flow prior, or else a density of such means;
2. of a few features (see `TypicalityFeatures.table`), under a density of such features;
3. free energy.

Surprises 1 and 3 are compared with their usual values for inputs of the same complexity: an input can be cheap to code
and yet lie where no data lies, such as a black image (Nalisnick et al. 2019, arXiv 1906.02994).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.data import Floats
from model.scoring.complexity import Trend
from model.scoring.mixture import Mixture
from model.vae import VAE

#: Density of latent means: most components, and what is added to every variance; the prior's variance is 1.
LATENT_COMPONENTS, LATENT_RIDGE = 32, 0.05
#: Density of features, which are standardized to variance 1: most components, and what is added to every variance.
FEATURE_COMPONENTS, FEATURE_RIDGE = 8, 0.01
#: Weights of the surprises: of the latent mean, of the features, of free energy.
WEIGHTS = np.array([1.0, 0.5, 0.5])
#: Lower bound, in standard deviations, of the surprises that are compared with complexity: far outside the data the
#: usual value for a complexity is unknown, so a low surprise there must not make up for a high one elsewhere.
MIN_SURPRISE = -3.0


@dataclass(frozen=True)
class TypicalityFeatures:
    """What typicality is computed from: float64 arrays of n inputs. `regret` is None where Q was not refined."""

    mean: Floats  # of the encoder's Q, n x latent
    scale_norm: Floats  # Euclidean norm of the standard deviations of the encoder's Q
    kl_to_normal: Floats  # KL(Q, N(0, I)) of the encoder's Q, nats
    residual: Floats  # root mean square of x - E[x | z = mean], in standardized units
    complexity: Floats  # n x measures
    distortion: Floats  # nats
    free_energy: Floats  # nats
    nlog_prior: Floats | None = None  # nlog P(z) at the mean of the encoder's Q under a flow prior, nats
    regret: Floats | None = None  # nats

    @classmethod
    def of(
        cls, columns: Sequence[NDArray[Any]], distortion: Floats, free_energy: Floats, regret: Floats | None = None
    ) -> "TypicalityFeatures":
        """From the outputs of `model.scoring.functions.typicality_features`, and scores."""
        mean, scale_norm, kl_to_normal, rms, complexity, *prior = (np.asarray(column, np.float64) for column in columns)
        nlog_prior = prior[0] if prior else None
        return cls(mean, scale_norm, kl_to_normal, rms, complexity, distortion, free_energy, nlog_prior, regret)

    @classmethod
    def concatenate(cls, parts: "Sequence[TypicalityFeatures]") -> "TypicalityFeatures":
        """Features of several batches, one after the other."""
        columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
        given = {name: np.concatenate(column) for name, column in columns.items() if column[0] is not None}
        return replace(parts[0], **given)

    def __len__(self) -> int:
        return len(self.free_energy)

    def __getitem__(self, rows: slice) -> "TypicalityFeatures":
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if value is not None})

    def table(self) -> Floats:
        """n x features. Positive ones as logarithms, since ratios matter there."""
        positive = (self.kl_to_normal, np.linalg.norm(self.mean, axis=1), self.scale_norm, self.residual)
        columns = [self.distortion, *(np.log(column + 1e-6) for column in positive), *self.complexity.T]
        return np.stack(columns if self.regret is None else [*columns, self.regret], axis=1)


def residual(vae: VAE, x: Tensor, decoded: Tensor) -> Float[Tensor, "batch"]:
    """Root mean square, over the dimensions of x, of x minus its decoding in standardized units; one per row."""
    difference = vae.standardize(x) - vae.standardize(decoded)
    rms: Tensor = difference.flatten(1).square().mean(1).sqrt()
    return rms


def fit_latents(means: Floats) -> Mixture:
    """Density of the latent means of inputs that the model was fitted to, n x latent."""
    return Mixture.fit(means, components=LATENT_COMPONENTS, ridge=LATENT_RIDGE)


def _of_latent(density: Mixture | None, features: TypicalityFeatures) -> Floats:
    """Minus the log of the density of each latent mean, nats."""
    if density is not None:
        return density.nlog_density(features.mean)
    assert features.nlog_prior is not None
    return features.nlog_prior


@dataclass(frozen=True)
class TypicalityModel:
    """What is usual for the features of one `ScoringConfig`."""

    latent_density: Mixture | None  # of latent means; None for the prior of the model, a flow
    feature_density: Mixture
    shift: Floats  # of each feature
    unit: Floats  # of each feature, its standard deviation
    trend: Trend  # of the surprise of the latent mean, and of free energy
    center: Floats  # of the three surprises
    spread: Floats  # of the three surprises, their standard deviations

    @classmethod
    def fit(cls, latent_density: Mixture | None, features: TypicalityFeatures) -> "TypicalityModel":
        """Fit to inputs that did not fit the model."""
        table = features.table()
        shift, unit = table.mean(axis=0), table.std(axis=0)
        # A feature that does not vary has no scale of its own; 1 leaves it as it is.
        unit[unit <= 1e-6 * np.maximum(1, np.abs(shift))] = 1.0
        density = Mixture.fit((table - shift) / unit, components=FEATURE_COMPONENTS, ridge=FEATURE_RIDGE)
        compared = np.stack([_of_latent(latent_density, features), features.free_energy], axis=1)
        trend = Trend.fit(features.complexity, compared)
        raw = cls(latent_density, density, shift, unit, trend, np.zeros(3), np.ones(3))
        surprises = raw.surprises(features)
        center, spread = surprises.mean(axis=1), np.maximum(surprises.std(axis=1), 1e-9)
        return replace(raw, center=center, spread=spread)

    def surprises(self, features: TypicalityFeatures) -> Floats:
        """Standardized surprises of the latent mean, of the features, and of free energy; 3 x n."""
        table = (features.table() - self.shift) / self.unit
        usual = self.trend(features.complexity).T
        of_latent = _of_latent(self.latent_density, features)
        of_features = self.feature_density.nlog_density(table)
        raw = np.stack([of_latent - usual[0], of_features, features.free_energy - usual[1]])
        return (raw - self.center[:, None]) / self.spread[:, None]

    def score(self, features: TypicalityFeatures) -> Floats:
        """Typicality of n inputs: about 0 for typical ones, larger further out; without a unit."""
        surprises = self.surprises(features)
        surprises[[0, 2]] = np.maximum(surprises[[0, 2]], MIN_SURPRISE)
        typicality: Floats = WEIGHTS @ surprises
        return typicality
