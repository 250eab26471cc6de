"""Scores of data of any size, a batch at a time, and the calibration of a model on inputs that were set aside."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import random
from model.data import Array, Floats
from model.errors import DataError
from model.likelihoods import Gaussian
from model.prior import StandardPrior
from model.scoring import program
from model.scoring.calibration import Calibration, ScoringConfig
from model.scoring.free_energy import FreeEnergy
from model.scoring.functions import discrete_dims, torch_calls
from model.scoring.mixture import Mixture
from model.scoring.program import MAX_CALL_ROWS, Posterior, Scores
from model.scoring.typicality import TypicalityFeatures, fit_latents
from model.vae import VAE, to_tensor

#: Samples in a batch.
BATCH_ROWS = 256
#: Configurations that every training calibrates for: one draw; enough draws for a standard error; refinement.
DEFAULT_SCORINGS = (ScoringConfig(1, 0, 0), ScoringConfig(16, 0, 0), ScoringConfig(16, 20, 0))
#: Most samples that the density of latent means is fitted to; more would hardly change it.
MAX_DENSITY_SAMPLES = 20_000
#: A latent dimension is active where the variance of its mean over the data is above this (Burda et al. 2016).
MIN_ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of one batch, and the index of its first sample."""

    first: int
    scores: Scores

    def __len__(self) -> int:
        return len(self.means)

    @property
    def means(self) -> Floats:
        """Means of the encoder's Q, n x latent."""
        return self.scores.posterior.mean.astype(np.float64)

    @property
    def kl_to_normal(self) -> Floats:
        """KL(Q, N(0, 1)) of the encoder's Q by latent dimension, n x latent, nats: under a standard prior, the rate."""
        divergence: Floats = self.scores.posterior.gaussian.kl_to_normal().double().numpy()
        return divergence


def score(
    vae: VAE, batches: Iterable[Array], scoring: ScoringConfig, calibration: Calibration | None = None
) -> Iterator[ScoredBatch]:
    """Score batches of samples as a dataset gives them. The service gives the same scores for the same `scoring`."""
    first = 0
    for batch in batches:
        yield ScoredBatch(first, score_batch(vae, to_tensor(batch), scoring, calibration))
        first += len(batch)


def score_batch(vae: VAE, x: Tensor, scoring: ScoringConfig, calibration: Calibration | None = None) -> Scores:
    """Score samples as the model takes them."""
    steps = program.score(x.cpu().numpy(), scoring, discrete_dims=discrete_dims(vae), calibration=calibration)
    return program.run(steps, torch_calls(vae, calibration))


def estimate(vae: VAE, x: Tensor, q: Gaussian, noise: Tensor, rows: int = MAX_CALL_ROWS) -> FreeEnergy:
    """Estimate scores of each x under its q, from the same draws x latent of noise, at most `rows` pairs at a time."""
    arrays = x.cpu().numpy(), Posterior.of(q, analytic_rate=vae.prior.analytic_rate), noise.cpu().numpy()
    return program.run(program.estimate(*arrays, discrete_dims(vae)), torch_calls(vae), rows).scores


def calibrate(
    vae: VAE,
    reference: Array,
    scorings: Iterable[ScoringConfig] = DEFAULT_SCORINGS,
    *,
    calibration: Calibration | None = None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Calibrate by inputs that neither fitted nor chose the model, and keep the references for other scorings.

    `on_sample` receives the work done, in draws of samples: `draws_of` each scoring for each sample. Raise `DataError`
    if there are no samples, or a score is not finite.
    """
    if not len(reference):
        raise DataError("there are no samples to calibrate on")
    result = calibration or Calibration(None, {})
    # One half fits typicality, the other calibrates it: both must be random samples of the whole.
    shuffled = reference[random.generator(0, random.CALIBRATE).permutation(len(reference))]
    done = 0
    for scoring in scorings:
        parts = []
        for features in score_reference(vae, in_batches(shuffled), scoring):
            if not all(np.isfinite(column).all() for column in vars(features).values() if column is not None):
                raise DataError(
                    "a sample to calibrate on has scores that are not finite; look for extreme values in the data"
                )
            parts.append(features)
            done += len(features) * draws_of(scoring)
            on_sample(done)
        result = result.with_reference(scoring, TypicalityFeatures.concatenate(parts))
    return result


def draws_of(scoring: ScoringConfig) -> int:
    """Cost of the score of a sample, as the number of draws that take about as long."""
    if not scoring.refine:
        return scoring.samples
    # With refinement the encoder's Q is scored too, and a step goes forwards and backwards.
    return 2 * scoring.samples + 3 * scoring.refine


def score_reference(vae: VAE, batches: Iterable[Array], scoring: ScoringConfig) -> Iterator[TypicalityFeatures]:
    """Score samples that are to calibrate a model, in batches as a dataset gives them."""
    dims, calls = discrete_dims(vae), torch_calls(vae)
    for batch in batches:
        steps = program.score_reference(to_tensor(batch).numpy(), scoring, discrete_dims=dims)
        yield program.run(steps, calls)


def latent_density(vae: VAE, samples: Array) -> Mixture | None:
    """Density of the latent means of samples that the model was fitted to; None under a flow prior, which is one."""
    if not isinstance(vae.prior, StandardPrior):
        return None
    picks = np.sort(random.generator(0, random.CALIBRATE, 1).permutation(len(samples))[:MAX_DENSITY_SAMPLES])
    with torch.inference_mode():
        means = [vae.encode(to_tensor(batch, str(vae.device))).mean for batch in in_batches(samples[picks])]
    return fit_latents(torch.cat(means).cpu().double().numpy())


def active_units(means: Floats) -> int:
    """Number of active latent dimensions, by the means of Q of some inputs, n x latent."""
    return int((means.var(axis=0) > MIN_ACTIVE_VARIANCE).sum())


def in_batches(samples: Array) -> Iterator[Array]:
    """Samples in memory, at most `BATCH_ROWS` at a time."""
    for start in range(0, len(samples), BATCH_ROWS):
        yield samples[start : start + BATCH_ROWS]
