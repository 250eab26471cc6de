"""The estimators: log-weights once, everything follows from them.

    F(x) = E_Q[nlog P(x, z)] - H(Q) = nlog P(x) + KL(Q(z|x), P(z|x)) >= nlog P(x)

With z_1..z_K drawn from Q(z|x), a log-weight is log P(x, z_k) - log Q(z_k|x). Minus its mean over the draws is the
free energy; minus the log of the mean of its exponential is the importance-weighted bound (Burda et al. 2016, arXiv
1509.00519), which lies between nlog P(x) and F in expectation. Where Q is the true posterior every log-weight equals
log P(x), so both are exact at every draw.

All scores are in nats, summed over the dimensions of x and z, one per sample.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.likelihoods import Gaussian
from model.vae import VAE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """The three terms of minus a log-weight, one of each per row, in nats, summed in float64."""

    distortion: Tensor  # nlog P(x|z), summed over x
    cross_entropy: Tensor  # nlog P(z), summed over z
    nlog_q: Tensor  # nlog Q(z|x), summed over z; its mean over draws estimates H(Q)
    per_dimension: Tensor  # the terms of distortion, as `Distribution.nlog_prob` gives them: batch x data


def terms(
    vae: VAE,
    x: Float[Tensor, "batch *data"],
    q: Gaussian,
    noise: Float[Tensor, "batch latent"],
) -> Terms:
    """The terms at z = q.mean + q.scale * noise, row by row: one draw per row.

    Returns: distortion, cross_entropy, nlog_q (nats, summed over dimensions, one per row), and the terms of distortion.
    """
    z = q.draw(noise)
    per_dimension = vae.decode(z).nlog_prob(x)
    # Weights are exponentials of these sums: rounding them to float32 would be felt in every effective sample size.
    return Terms(
        distortion=per_dimension.flatten(1).sum(1, dtype=torch.float64),
        cross_entropy=vae.prior().nlog_prob(z).sum(1, dtype=torch.float64),
        nlog_q=q.nlog_prob(z).sum(1, dtype=torch.float64),
        per_dimension=per_dimension,
    )


@dataclass(frozen=True)
class FreeEnergy:
    """The scores of n samples from K draws each; float64 arrays of n, in nats per sample.

    `free_energy` = distortion + rate and `rate` = cross_entropy - entropy hold exactly: all are means over the same
    draws. `standard_error` is that of `free_energy` over the draws and `None` at K = 1; `effective_sample_size` is in
    draws, from 1 to K. `bits_per_dim` is free_energy / (D ln 2), `None` where x is real and F a density's.
    """

    free_energy: Floats
    standard_error: Floats | None
    distortion: Floats
    cross_entropy: Floats
    entropy: Floats
    rate: Floats
    rate_analytic: Floats
    bits_per_dim: Floats | None
    nlog_p_x: Floats
    inference_gap: Floats
    effective_sample_size: Floats


class Totals:
    """What is known of n samples' log-weights so far: memory of n, whatever the number of draws.

    Draws are added in any number of slices; `scores` is everything that follows from them.
    """

    def __init__(self, samples: int) -> None:
        self.draws = np.zeros(samples)
        self.terms = np.zeros((3, samples))
        # Log-weights less the first of their sample: a variance from plain sums of these loses no digits.
        self.origin = np.zeros(samples)
        self.offset = np.zeros((2, samples))
        # exp of the log-weights relative to the largest so far: none overflows, and one of them is 1.
        self.top = np.full(samples, -np.inf)
        self.relative = np.zeros((2, samples))

    def add(self, sample: NDArray[np.intp], distortion: Floats, cross_entropy: Floats, nlog_q: Floats) -> None:
        """Add one draw per row.

        Args:
            sample: whose draw each row is, 0..n-1, in ascending order.
            distortion, cross_entropy, nlog_q: its terms, nats.
        """
        # Few rows of many requests come here: the calls count, not the numbers.
        first = np.empty(len(sample), bool)
        first[0] = True
        np.not_equal(sample[1:], sample[:-1], out=first[1:])
        starts = first.nonzero()[0]
        who = sample[starts]
        log_weights = nlog_q - distortion - cross_entropy
        new = self.draws[who] == 0
        self.origin[who[new]] = log_weights[starts[new]]
        self.draws[who] += np.add.reduceat(np.ones(len(sample)), starts)
        self.terms[:, who] += np.add.reduceat(np.array((distortion, cross_entropy, nlog_q)), starts, axis=1)
        offset = log_weights - self.origin[sample]
        self.offset[:, who] += np.add.reduceat(np.array((offset, offset * offset)), starts, axis=1)
        before = self.top[who]
        self.top[who] = np.maximum(before, np.maximum.reduceat(log_weights, starts))
        relative, shrunk = np.exp(log_weights - self.top[sample]), np.exp(before - self.top[who])
        self.relative[:, who] *= np.array((shrunk, shrunk * shrunk))
        self.relative[:, who] += np.add.reduceat(np.array((relative, relative * relative)), starts, axis=1)

    def scores(self, rate_analytic: Floats, dims: int | None) -> FreeEnergy:
        """Everything that follows from the draws; every sample must have had as many, and one at least.

        Args:
            rate_analytic: KL(Q(z|x), P(z)) in closed form, n, nats.
            dims: the number of dimensions of a discrete x, else None.
        """
        draws = self.draws
        distortion, cross_entropy, entropy = self.terms / draws
        rate = cross_entropy - entropy
        free_energy = distortion + rate
        nlog_p_x = -(self.top + np.log(self.relative[0] / draws))
        spread = np.maximum(self.offset[1] - np.square(self.offset[0]) / draws, 0)
        return FreeEnergy(
            free_energy=free_energy,
            standard_error=np.sqrt(spread / (draws - 1) / draws) if (draws > 1).all() else None,
            distortion=distortion,
            cross_entropy=cross_entropy,
            entropy=entropy,
            rate=rate,
            rate_analytic=rate_analytic,
            bits_per_dim=free_energy / (dims * math.log(2)) if dims else None,
            nlog_p_x=nlog_p_x,
            inference_gap=free_energy - nlog_p_x,
            effective_sample_size=np.square(self.relative[0]) / self.relative[1],
        )


def pair_slices(samples: int, draws: int, rows: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs (sample, draw) in slices of at most `rows`: the indices of the samples, and of their draws."""
    for start in range(0, samples * draws, rows):
        yield np.divmod(np.arange(start, min(start + rows, samples * draws)), draws)


@torch.inference_mode()
def estimate(
    vae: VAE,
    x: Float[Tensor, "batch *data"],
    q: Gaussian,
    noise: Float[Tensor, "draws latent"],
    rows: int = 256,
) -> FreeEnergy:
    """The scores of each x under its q, from the same K = len(noise) draws of standard normal noise for every sample.

    q is any factorial Q: the encoder's, or one from `model.scoring.refine`. Memory is that of `rows` decodings and of
    the scores, whatever n and K.
    """
    totals = Totals(len(x))
    for sample, draw in pair_slices(len(x), len(noise), rows):
        i, k = torch.from_numpy(sample), torch.from_numpy(draw)
        t = terms(vae, x[i], Gaussian(q.mean[i], q.scale[i]), noise[k])
        totals.add(sample, *torch.stack([t.distortion, t.cross_entropy, t.nlog_q]).cpu().numpy())
    rate_analytic = q.rate().sum(1).cpu().double().numpy()
    return totals.scores(rate_analytic, vae.config.data.dims if vae.levels else None)
