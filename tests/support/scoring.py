"""Features and p-values of scores without a model, and refinement by torch."""

import numpy as np
from torch import Tensor

from model.likelihoods import Gaussian
from model.scoring import program
from model.scoring.calibration import CalibratedScores, Calibration, ScoringConfig
from model.scoring.functions import torch_calls
from model.scoring.program import Posterior
from model.scoring.typicality import TypicalityFeatures
from model.vae import VAE


def chance(count: int, seed: int = 0, latent: int = 2, refined: bool = False, measured: int = 0) -> TypicalityFeatures:
    """Random features of `count` inputs, with `measured` measures of complexity."""
    draw = np.random.default_rng(seed)
    distortion, rate = 90 + 10 * draw.normal(size=count), draw.gamma(9, size=count)
    return TypicalityFeatures(
        mean=draw.normal(size=(count, latent)),
        scale_norm=draw.gamma(5, size=count),
        kl_to_normal=rate,
        residual=draw.gamma(3, size=count),
        complexity=draw.normal(50, 5, size=(count, measured)),
        distortion=distortion,
        free_energy=distortion + rate,
        regret=draw.exponential(0.5, size=count) if refined else None,
    )


def ranked(calibration: Calibration, scoring: ScoringConfig, features: TypicalityFeatures) -> CalibratedScores:
    """P-values of scores by their definition, without a model."""
    reference = calibration.references.get(scoring)
    model = reference.typicality_model if reference else None
    typicality = model.score(features) if model else None
    return calibration.rank(scoring, features.free_energy, features.regret, typicality)


def refine(vae: VAE, x: Tensor, q: Gaussian, *, steps: int, seed: int = 0) -> Gaussian:
    """Run the refinement program by torch."""
    return program.run(
        program.refine(x.numpy(), Posterior.of(q, analytic_rate=vae.prior.analytic_rate), steps, seed), torch_calls(vae)
    ).gaussian
