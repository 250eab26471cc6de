"""Scores of data of any size, a batch at a time, and the calibration of a model on inputs that were set aside."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model import random
from model.errors import DataError
from model.scoring.calibration import UNCALIBRATED, Calibration, Protocol, Scored, Verdict
from model.scoring.free_energy import estimate
from model.scoring.mixture import Mixture
from model.scoring.refine import refine
from model.scoring.typicality import Sizes, fit_latents
from model.vae import VAE, to_tensor

Array = NDArray[Any]
Floats = NDArray[np.float64]
#: Samples in a batch, and most decodings in one call.
ROWS = 256
#: What every training calibrates for: one draw, draws enough for a standard error, and refinement.
PROTOCOLS = (Protocol(1, 0, 0), Protocol(16, 0, 0), Protocol(16, 20, 0))
#: The density of latent means is fitted to no more samples than this; more would hardly move it.
POINTS = 20_000
#: A latent dimension is active where the variance of its mean over the data is above this (Burda et al. 2016).
ACTIVE = 0.01


@dataclass(frozen=True)
class Part:
    """One batch: the index of its first sample, its scores, what the calibration says of them, and its rates."""

    first: int
    scored: Scored
    verdict: Verdict
    rate_per_dimension: Floats


def score(
    vae: VAE, batches: Iterable[Array], protocol: Protocol, calibration: Calibration | None = None
) -> Iterator[Part]:
    """Score samples, each by the same draws; the service gives the same scores for the same protocol.

    Args:
        vae: on the device that it is to run on.
        batches: of samples as a dataset gives them.
        protocol: how many draws and steps of refinement, and their seed.
        calibration: the model's, if it has one.
    """
    first = 0
    for batch in batches:
        x = to_tensor(batch, str(vae.device))
        scored, rates = score_batch(vae, x, protocol)
        verdict = Verdict(reason=UNCALIBRATED) if calibration is None else calibration.judge(protocol, scored)
        yield Part(first, scored, verdict, rates)
        first += len(batch)


@torch.no_grad()
def score_batch(vae: VAE, x: Float[Tensor, "batch *data"], protocol: Protocol) -> tuple[Scored, Floats]:
    """The scores of one batch, and the encoder's rate by dimension, n x latent in nats."""
    draws = torch.from_numpy(random.normal(protocol.seed, (protocol.samples, vae.config.latent))).to(x.device)
    q = vae.encode(x)
    sizes, rates = Sizes.of(vae, x, q), q.rate().cpu().double().numpy()
    scores = estimate(vae, x, q, draws, ROWS)
    if not protocol.refine:
        return Scored(scores, None, sizes), rates
    refined = estimate(vae, x, refine(vae, x, q, steps=protocol.refine, seed=protocol.seed), draws, ROWS)
    return Scored(refined, scores.free_energy - refined.free_energy, sizes), rates


def calibrate(
    vae: VAE,
    reference: Array,
    protocols: Iterable[Protocol] = PROTOCOLS,
    *,
    calibration: Calibration | None = None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Calibrate for these protocols, beside those that the calibration already has.

    Args:
        reference: inputs that neither fitted nor chose the model.
        calibration: with the density of latent means, as from `latent_density`; without, there is no typicality.
        on_sample: called with the number of samples done, over all protocols.

    Raises:
        DataError: there are no samples, or one of them has scores that are not finite.
    """
    if not len(reference):
        raise DataError("there are no samples to calibrate on")
    made = calibration or Calibration(None, {})
    # One half fits typicality, the other calibrates it: neither may be a part of the data of its own.
    shuffled = reference[random.generator(0, random.CALIBRATE).permutation(len(reference))]
    done = 0
    for protocol in protocols:
        parts = []
        for part in score(vae, in_batches(shuffled), protocol):
            _require_finite(part.scored)
            parts.append(part.scored)
            done += len(part.rate_per_dimension)
            on_sample(done)
        made = made.refer(protocol, Scored.concatenate(parts))
    return made


def _require_finite(scored: Scored) -> None:
    numbers = [scored.scores.free_energy, scored.scores.distortion, scored.regret, *vars(scored.sizes).values()]
    if not all(np.isfinite(number).all() for number in numbers if number is not None):
        raise DataError("a sample to calibrate on has scores that are not finite; look for values far out in the data")


def latent_density(vae: VAE, samples: Array) -> Mixture:
    """The density of the latent means of samples that the model was fitted to."""
    picks = np.sort(random.generator(0, random.CALIBRATE, 1).permutation(len(samples))[:POINTS])
    device = str(vae.device)
    with torch.inference_mode():
        means = [
            vae.encode(to_tensor(batch, device)).mean.cpu().double().numpy() for batch in in_batches(samples[picks])
        ]
    return fit_latents(np.concatenate(means))


def active_units(means: Floats) -> int:
    """How many dimensions of the latent are active, by the means of Q of some inputs, n x latent."""
    return int((means.var(axis=0) > ACTIVE).sum())


def in_batches(samples: Array) -> Iterator[Array]:
    """Samples in memory as a dataset gives them, at most `ROWS` at a time."""
    for start in range(0, len(samples), ROWS):
        yield samples[start : start + ROWS]
