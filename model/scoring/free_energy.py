"""Estimators of free energy and its bounds: log-weights are computed once, every score follows from them.

    F(x) = E_Q[nlog P(x, z)] - H(Q) = nlog P(x) + KL(Q(z|x), P(z|x)) >= nlog P(x)

With z_1..z_K drawn from Q(z|x), a log-weight is log P(x, z_k) - log Q(z_k|x). Minus its mean over the draws is the
free energy; minus the log of the mean of its exponential is the importance-weighted bound (Burda et al. 2016, arXiv
1509.00519), which lies between nlog P(x) and F in expectation.

All scores are in nats, summed over the dimensions of x and z, one per sample.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.data import Floats
from model.likelihoods import Gaussian
from model.vae import VAE


class LogWeightTerms(NamedTuple):
    """Terms of minus a log-weight, distortion + cross_entropy - nlog_q: nats, one per row, summed in float64."""

    distortion: Tensor  # nlog P(x|z), summed over x
    cross_entropy: Tensor  # nlog P(z), summed over z
    nlog_q: Tensor  # nlog Q(z|x), summed over z; its mean over draws estimates H(Q)
    per_dimension: Tensor  # terms of distortion, as `Distribution.nlog_prob` returns them: batch x data, float32


def log_weight_terms(vae: VAE, x: Tensor, q: Gaussian, noise: Tensor) -> LogWeightTerms:
    """Terms of minus the log-weight at z = q.mean + q.scale * noise, for standard normal noise: one draw per row."""
    z = q.draw(noise)
    return weight_terms(vae, x, q, z, vae.prior.nlog_prob(z))


def weight_terms(vae: VAE, x: Tensor, q: Gaussian, z: Tensor, cross_entropy: Tensor) -> LogWeightTerms:
    """Terms of minus the log-weight at draws z of q, given their nlog P(z)."""
    per_dimension = vae.decode(z).nlog_prob(x)
    # Weights are exponentials of these sums: rounding the sums to float32 would distort every effective sample size.
    return LogWeightTerms(
        distortion=per_dimension.flatten(1).sum(1, dtype=torch.float64),
        cross_entropy=cross_entropy,
        nlog_q=q.nlog_prob(z).sum(1, dtype=torch.float64),
        per_dimension=per_dimension,
    )


def free_energy_at(vae: VAE, x: Tensor, q: Gaussian, noise: Tensor) -> Float[Tensor, "batch"]:
    """Free energy at z = q.mean + q.scale * noise, in nats, float64: differentiable, less noisy than a log-weight.

    The entropy of q is in closed form, and so is the whole rate where the prior has one.
    """
    z = q.draw(noise)
    return vae.decode(z).nlog_prob(x).flatten(1).sum(1, dtype=torch.float64) + vae.prior.rate(q, z)


@dataclass(frozen=True)
class FreeEnergy:
    """Scores of n samples from K draws each: float64 arrays of n, in nats per sample.

    `free_energy` = distortion + rate and `rate` = cross_entropy - entropy hold exactly. `standard_error` is that of
    `free_energy` over the draws, None at K = 1. `effective_sample_size` is in draws, from 1 to K. `bits_per_dim` is
    free_energy / (D ln 2), None where x is real. `rate_analytic` is None where the prior has no closed form of it.
    """

    free_energy: Floats
    standard_error: Floats | None
    distortion: Floats
    cross_entropy: Floats
    entropy: Floats
    rate: Floats
    rate_analytic: Floats | None
    bits_per_dim: Floats | None
    nlog_p_x: Floats
    inference_gap: Floats
    effective_sample_size: Floats


class LabelAccumulator:
    """Running sums of the weights of n samples under each of L labels, for P(label|x).

    By Bayes' rule P(label|x) is in proportion to P(label) P(x|label), and P(x|label) is the mean over draws of Q of
    P(x|z) P(z|label) / Q(z|x). The means are estimates, so this is one too.
    """

    def __init__(self, samples: int, log_label: Floats) -> None:
        self.log_label = log_label
        self.log_sums = np.full((samples, len(log_label)), -np.inf)

    def add(self, sample: NDArray[np.intp], distortion: Floats, cross_entropy_given: Floats, nlog_q: Floats) -> None:
        """Add one draw per row. `cross_entropy_given` is rows x L; the rest is as for `LogWeightAccumulator.add`."""
        log_weights = (nlog_q - distortion)[:, None] - cross_entropy_given
        present, starts = np.unique(sample, return_index=True)
        added = np.logaddexp.reduceat(log_weights, starts, axis=0)
        self.log_sums[present] = np.logaddexp(self.log_sums[present], added)

    def probabilities(self) -> Floats:
        """P(label|x), n x L; each row adds up to 1."""
        logits = self.log_sums + self.log_label
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Floats = weights / weights.sum(axis=1, keepdims=True)
        return probabilities


class LogWeightAccumulator:
    """Running sums over the log-weights of n samples: add draws in any number of slices, then ask for `scores`.

    >>> totals = LogWeightAccumulator(samples=1)
    >>> totals.add(np.array([0, 0]), np.array([8.0, 6.0]), np.array([3.0, 3.0]), np.array([2.0, 2.0]))
    >>> totals.scores(rate_analytic=np.array([1.0]), discrete_dims=None).free_energy.tolist()
    [8.0]
    """

    def __init__(self, samples: int) -> None:
        self.draws = np.zeros(samples)
        self.terms = np.zeros((3, samples))
        # Log-weights minus the first one of their sample: a variance from plain sums of these loses no digits.
        self.origin = np.zeros(samples)
        self.offset = np.zeros((2, samples))
        # exp(log-weight - largest so far): none overflows, and one of them is 1.
        self.largest = np.full(samples, -np.inf)
        self.relative = np.zeros((2, samples))

    def add(self, sample: NDArray[np.intp], distortion: Floats, cross_entropy: Floats, nlog_q: Floats) -> None:
        """Add the terms of one draw per row, in nats. `sample` is the index of each row's sample, ascending."""
        # Slices are small in a service: the number of numpy calls decides the time, not the size of the arrays.
        is_first = np.empty(len(sample), bool)
        is_first[0] = True
        np.not_equal(sample[1:], sample[:-1], out=is_first[1:])
        starts = is_first.nonzero()[0]
        present = sample[starts]
        log_weights = nlog_q - distortion - cross_entropy
        new = self.draws[present] == 0
        self.origin[present[new]] = log_weights[starts[new]]
        self.draws[present] += np.add.reduceat(np.ones(len(sample)), starts)
        self.terms[:, present] += np.add.reduceat(np.array((distortion, cross_entropy, nlog_q)), starts, axis=1)
        offset = log_weights - self.origin[sample]
        self.offset[:, present] += np.add.reduceat(np.array((offset, offset * offset)), starts, axis=1)
        before = self.largest[present]
        self.largest[present] = np.maximum(before, np.maximum.reduceat(log_weights, starts))
        relative, shrunk = np.exp(log_weights - self.largest[sample]), np.exp(before - self.largest[present])
        self.relative[:, present] *= np.array((shrunk, shrunk * shrunk))
        self.relative[:, present] += np.add.reduceat(np.array((relative, relative * relative)), starts, axis=1)

    def scores(self, rate_analytic: Floats | None, discrete_dims: int | None) -> FreeEnergy:
        """Scores from the draws so far. Every sample must have equally many draws, at least one.

        `rate_analytic` is KL(Q(z|x), P(z)) in closed form, nats, if it has one; `discrete_dims` the dimensions of x if
        it is discrete.
        """
        draws = self.draws
        distortion, cross_entropy, entropy = self.terms / draws
        rate = cross_entropy - entropy
        free_energy = distortion + rate
        nlog_p_x = -(self.largest + np.log(self.relative[0] / draws))
        spread = np.maximum(self.offset[1] - np.square(self.offset[0]) / draws, 0)
        return FreeEnergy(
            free_energy=free_energy,
            standard_error=np.sqrt(spread / (draws - 1) / draws) if (draws > 1).all() else None,
            distortion=distortion,
            cross_entropy=cross_entropy,
            entropy=entropy,
            rate=rate,
            rate_analytic=rate_analytic,
            bits_per_dim=free_energy / (discrete_dims * math.log(2)) if discrete_dims else None,
            nlog_p_x=nlog_p_x,
            inference_gap=free_energy - nlog_p_x,
            effective_sample_size=np.square(self.relative[0]) / self.relative[1],
        )
