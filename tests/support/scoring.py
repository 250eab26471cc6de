"""Features and p-values of scores without a model."""

import numpy as np

from model.scoring.calibration import CalibratedScores, Calibration, ScoringConfig
from model.scoring.typicality import TypicalityFeatures


def chance(count: int, seed: int = 0, latent: int = 2, refined: bool = False, measured: int = 0) -> TypicalityFeatures:
    """Random features of `count` inputs, with `measured` measures of complexity."""
    draw = np.random.default_rng(seed)
    distortion, rate = 90 + 10 * draw.normal(size=count), draw.gamma(9, size=count)
    return TypicalityFeatures(
        mean=draw.normal(size=(count, latent)),
        scale_norm=draw.gamma(5, size=count),
        rate=rate,
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
