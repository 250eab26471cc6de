"""Calibration: scores of inputs that were set aside turn a score into a p-value.

    p(x) = (1 + #{reference >= score(x)}) / (n + 1)

is valid whatever the model: where x comes from the source of the n reference inputs, and these neither fitted nor chose
the model, P(p <= a) <= a for every a (conformal p-values: Vovk et al. 2005; for outliers, Bates et al. 2023,
arXiv 2104.08279). It holds for scores made alike: by one `ScoringConfig`.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from model.data import Floats
from model.scoring.complexity import Trend, quadratic_terms
from model.scoring.mixture import Mixture
from model.scoring.typicality import TypicalityFeatures, TypicalityModel

#: Reason why a model without a calibration has no p-values.
UNCALIBRATED = "the model has no calibration; give it one with vae calibrate"
#: Fewest reference inputs for typicality: halves of fewer neither fit nor calibrate it.
MIN_TYPICALITY_INPUTS = 100


class ScoringConfig(NamedTuple):
    """How scores are made: K draws of z, S steps of refinement, the seed of the draws."""

    samples: int
    refine: int
    seed: int

    def __str__(self) -> str:
        return f"samples={self.samples}, refine={self.refine}, seed={self.seed}"


@dataclass(frozen=True)
class Reference:
    """Scores of the reference inputs under one `ScoringConfig`, in ascending order."""

    free_energy: Floats
    regret: Floats | None = None
    typicality_model: TypicalityModel | None = None
    typicality: Floats | None = None

    @classmethod
    def of(cls, features: TypicalityFeatures, latent_density: Mixture | None) -> "Reference":
        """From inputs in random order: the first half fits typicality, the second half calibrates it."""
        free_energy = np.sort(features.free_energy)
        regret = None if features.regret is None else np.sort(features.regret)
        half = len(features) // 2
        undefined = latent_density is None and features.nlog_prior is None
        if undefined or len(features) < MIN_TYPICALITY_INPUTS:
            return cls(free_energy, regret)
        model = TypicalityModel.fit(latent_density, features[:half])
        return cls(free_energy, regret, model, np.sort(model.score(features[half:])))


@dataclass(frozen=True)
class CalibratedScores:
    """Typicality and p-values by score of n inputs, or the reason why there are none."""

    typicality: Floats | None = None
    p_values: dict[str, Floats] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Calibration:
    """References by `ScoringConfig`, and the density of latent means that they share.

    Under a standard prior typicality needs that density; a flow prior is one itself.
    """

    latents: Mixture | None
    references: dict[ScoringConfig, Reference]

    def with_reference(self, scoring: ScoringConfig, features: TypicalityFeatures) -> "Calibration":
        """Add a reference for these scores, or replace it."""
        return replace(self, references={**self.references, scoring: Reference.of(features, self.latents)})

    def rank(
        self, scoring: ScoringConfig, free_energy: Floats, regret: Floats | None, typicality: Floats | None
    ) -> CalibratedScores:
        """P-values of scores made as `scoring` says. `typicality` comes from the typicality model of the reference."""
        reference = self.references.get(scoring)
        if reference is None:
            return CalibratedScores(reason=self.missing(scoring))
        p_values = {
            "free_energy": p_value(reference.free_energy, free_energy),
            "free_energy_two_sided": two_sided(reference.free_energy, free_energy),
        }
        if reference.regret is not None and regret is not None:
            p_values["regret"] = p_value(reference.regret, regret)
        if reference.typicality is None or typicality is None:
            return CalibratedScores(None, p_values)
        return CalibratedScores(typicality, p_values | {"typicality": p_value(reference.typicality, typicality)})

    def missing(self, scoring: ScoringConfig) -> str:
        """Reason why there are no p-values of scores without a reference."""
        calibrated = " or ".join(f"({known})" for known in sorted(self.references)) or "nothing"
        return f"the model is calibrated for {calibrated}, not for ({scoring})"


def p_value(reference: Floats, score: Floats) -> Floats:
    """(1 + #{reference >= score}) / (n + 1), for n reference scores in ascending order.

    >>> p_value(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5, 9.0])).tolist()
    [1.0, 0.5, 0.25]
    """
    above = len(reference) - np.searchsorted(reference, score, side="left")
    p: Floats = (1 + above) / (len(reference) + 1)
    return p


def two_sided(reference: Floats, score: Floats) -> Floats:
    """Twice the smaller of two p-values, of a score that is too large and of one that is too small; at most 1."""
    below = (1 + np.searchsorted(reference, score, side="right")) / (len(reference) + 1)
    p: Floats = np.minimum(1, 2 * np.minimum(below, p_value(reference, score)))
    return p


def discoveries(p: Floats, rate: float) -> NDArray[np.bool_]:
    """Mask of the p-values to flag, so that the expected share of false positives among them is at most `rate`.

    The procedure of Benjamini & Hochberg (1995) is valid for p-values that share a reference (Bates et al. 2023).

    >>> discoveries(np.array([0.9, 0.01, 0.06, 0.5]), rate=0.1).tolist()
    [False, True, False, False]
    """
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    flagged: NDArray[np.bool_] = p <= (ordered[passed[-1]] if len(passed) else -1.0)
    return flagged


def to_bytes(calibration: Calibration) -> bytes:
    """Serialize to safetensors, with the arrays named by what they belong to."""
    arrays = {} if calibration.latents is None else _named("latents", calibration.latents)
    for scoring, reference in calibration.references.items():
        prefix = f"reference.{scoring.samples}.{scoring.refine}.{scoring.seed}"
        scores = {name: getattr(reference, name) for name in ("free_energy", "regret", "typicality")}
        arrays |= {f"{prefix}.{name}": value for name, value in scores.items() if value is not None}
        if (model := reference.typicality_model) is not None:
            arrays |= _named(f"{prefix}.typical.sizes", model.feature_density)
            arrays |= {f"{prefix}.typical.{name}": getattr(model, name) for name in TYPICALITY_ARRAYS}
            arrays |= {f"{prefix}.typical.trend.{name}": value for name, value in vars(model.trend).items()}
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


TYPICALITY_ARRAYS = ("shift", "unit", "center", "spread")
REFERENCE_ARRAY = re.compile(r"reference\.(\d+)\.(\d+)\.(\d+)\.(.+)")


def from_bytes(data: bytes, latent: int, measured: int, *, flow: bool = False) -> Calibration:
    """Deserialize a calibration. Raise `ValueError` if it is not one of this many latent dimensions and measures.

    `flow` says if the prior is one: typicality then needs no density of latents.
    """
    arrays = safetensors.numpy.load(data)
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64) or not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite floats")
    shared, by_scoring = {}, defaultdict[ScoringConfig, dict[str, Floats]](dict)
    for name, array in arrays.items():
        values = array.astype(np.float64)
        if match := REFERENCE_ARRAY.fullmatch(name):
            by_scoring[ScoringConfig(*(int(n) for n in match.groups()[:3]))][match[4]] = values
        else:
            shared[name] = values
    latents = _mixture("latents", shared, latent) if shared else None
    if shared:
        raise ValueError(f"{min(shared)} is unknown")
    return Calibration(
        latents,
        {
            scoring: _reference(by_scoring[scoring], latents, measured, known=flow or latents is not None)
            for scoring in sorted(by_scoring)
        },
    )


def _reference(named: dict[str, Floats], latents: Mixture | None, measured: int, *, known: bool) -> Reference:
    """A reference of its arrays; with typicality only if a density of latents is known."""
    free_energy, regret = _scores("free_energy", named), _scores("regret", named) if "regret" in named else None
    model = typicality = None
    if "typicality" in named and known:
        typicality = _scores("typicality", named)
        width = measured + (5 if regret is None else 6)
        density = _mixture("typical.sizes", named, width)
        shapes = {"shift": width, "unit": width, "center": 3, "spread": 3}
        arrays = {name: _pop(f"typical.{name}", named, (size,)) for name, size in shapes.items()}
        trend_shapes = {"shift": (measured,), "unit": (measured,), "weights": (quadratic_terms(measured), 2)}
        trend = {name: _pop(f"typical.trend.{name}", named, shape) for name, shape in trend_shapes.items()}
        if any((unit <= 0).any() for unit in (arrays["unit"], arrays["spread"], trend["unit"])):
            raise ValueError("typical.unit, typical.spread and typical.trend.unit must be positive")
        model = TypicalityModel(latents, density, trend=Trend(**trend), **arrays)
    if named:
        raise ValueError(f"{min(named)} is unknown")
    return Reference(free_energy, regret, model, typicality)


def _scores(name: str, named: dict[str, Floats]) -> Floats:
    scores = _pop(name, named, (named[name].size if name in named else 0,))
    if not len(scores) or (np.diff(scores) < 0).any():
        raise ValueError(f"{name} is not in ascending order")
    return scores


def _mixture(prefix: str, named: dict[str, Floats], dims: int) -> Mixture:
    count = named[f"{prefix}.log_weights"].size if f"{prefix}.log_weights" in named else 0
    shapes = {"log_weights": (count,), "means": (count, dims), "factors": (count, dims, dims)}
    mixture = Mixture(**{name: _pop(f"{prefix}.{name}", named, shape) for name, shape in shapes.items()})
    if not count or np.diagonal(mixture.factors, axis1=1, axis2=2).min() <= 0:
        raise ValueError(f"{prefix} is not a density")
    return mixture


def _pop(name: str, named: dict[str, Floats], shape: tuple[int, ...]) -> Floats:
    if name not in named or named[name].shape != shape:
        raise ValueError(f"{name} is missing or not of shape {shape}")
    return named.pop(name)


def _named(prefix: str, mixture: Mixture) -> dict[str, NDArray[np.float32]]:
    # float32: these arrays are large, and its rounding is far below the accuracy of the fit.
    return {f"{prefix}.{field.name}": getattr(mixture, field.name).astype(np.float32) for field in fields(mixture)}
