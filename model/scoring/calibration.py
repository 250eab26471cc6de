"""Scores of inputs that were set aside -> p-values.

    p(x) = (1 + #{reference >= score(x)}) / (n + 1)

is valid whatever the model: where x comes from the same source as the n reference inputs, which neither fitted nor
chose the model, P(p <= a) <= a for every a (conformal p-values: Vovk et al. 2005; for outliers, Bates et al. 2023,
arXiv 2104.08279). It holds for scores made alike: with as many draws, as many steps of refinement, and the same seed.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from model.scoring.complexity import Trend, quadratic_terms
from model.scoring.free_energy import FreeEnergy
from model.scoring.mixture import Mixture
from model.scoring.typicality import Sizes, Typical

Floats = NDArray[np.float64]
#: Why a model without a calibration has no p-values.
UNCALIBRATED = "the model has no calibration; give it one with vae calibrate"
#: With fewer inputs set aside than this, halves of them neither fit nor calibrate typicality.
LEAST = 100


class Protocol(NamedTuple):
    """How scores are made: K draws of z, S steps of refinement, the seed of the draws."""

    samples: int
    refine: int
    seed: int

    def __str__(self) -> str:
        return f"samples={self.samples}, refine={self.refine}, seed={self.seed}"


@dataclass(frozen=True)
class Scored:
    """The scores of n inputs, and what typicality needs beside them. `regret` is None where Q was not refined."""

    scores: FreeEnergy
    regret: Floats | None
    sizes: Sizes

    @classmethod
    def concatenate(cls, parts: "Sequence[Scored]") -> "Scored":
        """The same of several batches, one after the other."""

        def join(values: list[Floats | None]) -> Floats | None:
            return None if values[0] is None else np.concatenate([value for value in values if value is not None])

        scores = {name: join([getattr(part.scores, name) for part in parts]) for name in vars(parts[0].scores)}
        sizes = {name: np.concatenate([getattr(part.sizes, name) for part in parts]) for name in vars(parts[0].sizes)}
        return cls(FreeEnergy(**scores), join([part.regret for part in parts]), Sizes(**sizes))  # type: ignore[arg-type]

    def pick(self, rows: slice) -> "Scored":
        """Some of the inputs."""

        def cut(value: Floats | None) -> Floats | None:
            return None if value is None else value[rows]

        scores = FreeEnergy(**{name: cut(value) for name, value in vars(self.scores).items()})  # type: ignore[arg-type]
        sizes = replace(self.sizes, **{name: value[rows] for name, value in vars(self.sizes).items()})
        return Scored(scores, cut(self.regret), sizes)


@dataclass(frozen=True)
class Reference:
    """What the inputs that were set aside scored under one protocol; scores in ascending order."""

    free_energy: Floats
    regret: Floats | None = None
    typical: Typical | None = None
    typicality: Floats | None = None

    @classmethod
    def of(cls, scored: Scored, latents: Mixture | None) -> "Reference":
        """From inputs in an order of chance: one half of them fits typicality, the other calibrates it."""
        free_energy = np.sort(scored.scores.free_energy)
        regret = None if scored.regret is None else np.sort(scored.regret)
        half = len(free_energy) // 2
        if latents is None or len(free_energy) < LEAST:
            return cls(free_energy, regret)
        fits, rest = scored.pick(slice(half)), scored.pick(slice(half, None))
        typical = Typical.fit(latents, fits.sizes, fits.scores, fits.regret)
        return cls(free_energy, regret, typical, np.sort(typical.score(rest.sizes, rest.scores, rest.regret)))


@dataclass(frozen=True)
class Verdict:
    """Typicality and p-values by score of n inputs, or the reason why there are none."""

    typicality: Floats | None = None
    p_values: dict[str, Floats] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Calibration:
    """References by protocol, and the density of latent means that they share, without which none has typicality."""

    latents: Mixture | None
    references: dict[Protocol, Reference]

    def refer(self, protocol: Protocol, scored: Scored) -> "Calibration":
        """With one more protocol, or a new reference for a known one."""
        return replace(self, references={**self.references, protocol: Reference.of(scored, self.latents)})

    def judge(self, protocol: Protocol, scored: Scored) -> Verdict:
        """Inputs that were scored under this protocol."""
        reference = self.references.get(protocol)
        typicality = None
        if reference is not None and reference.typical is not None:
            typicality = reference.typical.score(scored.sizes, scored.scores, scored.regret)
        return self.rank(protocol, scored.scores.free_energy, scored.regret, typicality)

    def rank(
        self, protocol: Protocol, free_energy: Floats, regret: Floats | None, typicality: Floats | None
    ) -> Verdict:
        """The same from the scores alone; typicality as `Typical.score` gives it where the reference has it."""
        reference = self.references.get(protocol)
        if reference is None:
            return self.refuse(protocol)
        p_values = {
            "free_energy": p_value(reference.free_energy, free_energy),
            "free_energy_two_sided": two_sided(reference.free_energy, free_energy),
        }
        if reference.regret is not None and regret is not None:
            p_values["regret"] = p_value(reference.regret, regret)
        if reference.typicality is None or typicality is None:
            return Verdict(None, p_values, None)
        return Verdict(typicality, p_values | {"typicality": p_value(reference.typicality, typicality)}, None)

    def refuse(self, protocol: Protocol) -> Verdict:
        """Why there are no p-values for a protocol that is not known."""
        known = " or ".join(f"({known})" for known in sorted(self.references)) or "nothing"
        return Verdict(reason=f"the model is calibrated for {known}, not for ({protocol})")


def p_value(reference: Floats, score: Floats) -> Floats:
    """(1 + #{reference >= score}) / (n + 1): small for scores larger than those of the reference.

    Args:
        reference: n scores in ascending order.
    """
    above = len(reference) - np.searchsorted(reference, score, side="left")
    p: Floats = (1 + above) / (len(reference) + 1)
    return p


def two_sided(reference: Floats, score: Floats) -> Floats:
    """Twice the smaller of the p-values of a score that is too large and of one that is too small, at most 1."""
    below = (1 + np.searchsorted(reference, score, side="right")) / (len(reference) + 1)
    p: Floats = np.minimum(1, 2 * np.minimum(below, p_value(reference, score)))
    return p


def discoveries(p: Floats, rate: float) -> NDArray[np.bool_]:
    """Which of n p-values to flag, so that at most a share `rate` of the flagged is expected to be in error.

    All up to the largest p_(k), the k-th smallest, with p_(k) <= rate k / n (Benjamini & Hochberg 1995); valid for
    conformal p-values that share a reference (Bates et al. 2023).
    """
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / max(1, len(p)))
    flagged: NDArray[np.bool_] = p <= (ordered[passed[-1]] if len(passed) else -1.0)
    return flagged


def to_bytes(calibration: Calibration) -> bytes:
    """As safetensors: the arrays of everything, named by where they belong."""
    arrays = {} if calibration.latents is None else _named("latents", calibration.latents)
    for protocol, reference in calibration.references.items():
        place = f"reference.{protocol.samples}.{protocol.refine}.{protocol.seed}"
        arrays |= {
            f"{place}.{name}": value
            for name, value in vars(reference).items()
            if value is not None and not isinstance(value, Typical)
        }
        if reference.typical is not None:
            typical = reference.typical
            arrays |= _named(f"{place}.typical.sizes", typical.sizes)
            arrays |= {f"{place}.typical.{name}": getattr(typical, name) for name in TYPICAL}
            arrays |= {f"{place}.typical.trend.{name}": value for name, value in vars(typical.trend).items()}
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


TYPICAL = ("shift", "unit", "center", "spread")
PLACE = re.compile(r"reference\.(\d+)\.(\d+)\.(\d+)\.(.+)")


def from_bytes(data: bytes, latent: int, measured: int) -> Calibration:
    """The reverse.

    Args:
        latent: the size of the model's latent.
        measured: how many measures of complexity its inputs have.

    Raises:
        ValueError: not a calibration, or not one of such a model.
    """
    arrays = safetensors.numpy.load(data)
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64) or not np.isfinite(array).all():
            raise ValueError(f"{name} holds what is not a finite float")
    shared, by_protocol = {}, defaultdict[Protocol, dict[str, Floats]](dict)
    for name, array in arrays.items():
        values = array.astype(np.float64)
        if match := PLACE.fullmatch(name):
            by_protocol[Protocol(*(int(n) for n in match.groups()[:3]))][match[4]] = values
        else:
            shared[name] = values
    latents = _mixture("latents", shared, latent) if shared else None
    if shared:
        raise ValueError(f"{min(shared)} is unknown")
    return Calibration(
        latents, {protocol: _reference(by_protocol[protocol], latents, measured) for protocol in sorted(by_protocol)}
    )


def _reference(named: dict[str, Floats], latents: Mixture | None, measured: int) -> Reference:
    free_energy, regret = _scores("free_energy", named), _scores("regret", named) if "regret" in named else None
    typical = typicality = None
    if "typicality" in named and latents is not None:
        typicality = _scores("typicality", named)
        width = measured + (5 if regret is None else 6)
        sizes = _mixture("typical.sizes", named, width)
        shapes = {"shift": width, "unit": width, "center": 3, "spread": 3}
        rest = {name: _taken(f"typical.{name}", named, (size,)) for name, size in shapes.items()}
        shapes_of_trend = {"shift": (measured,), "unit": (measured,), "weights": (quadratic_terms(measured), 2)}
        trend = {name: _taken(f"typical.trend.{name}", named, shape) for name, shape in shapes_of_trend.items()}
        if any((unit <= 0).any() for unit in (rest["unit"], rest["spread"], trend["unit"])):
            raise ValueError("a unit or spread of typical is not positive")
        typical = Typical(latents, sizes, trend=Trend(**trend), **rest)
    if named:
        raise ValueError(f"{min(named)} is unknown")
    return Reference(free_energy, regret, typical, typicality)


def _scores(name: str, named: dict[str, Floats]) -> Floats:
    scores = _taken(name, named, (named[name].size if name in named else 0,))
    if not len(scores) or (np.diff(scores) < 0).any():
        raise ValueError(f"{name} is not in ascending order")
    return scores


def _mixture(prefix: str, named: dict[str, Floats], dims: int) -> Mixture:
    count = named[f"{prefix}.log_weights"].size if f"{prefix}.log_weights" in named else 0
    shapes = {"log_weights": (count,), "means": (count, dims), "factors": (count, dims, dims)}
    mixture = Mixture(**{name: _taken(f"{prefix}.{name}", named, shape) for name, shape in shapes.items()})
    if not count or np.diagonal(mixture.factors, axis1=1, axis2=2).min() <= 0:
        raise ValueError(f"{prefix} is not a density")
    return mixture


def _taken(name: str, named: dict[str, Floats], shape: tuple[int, ...]) -> Floats:
    if name not in named or named[name].shape != shape:
        raise ValueError(f"{name} is missing or not of shape {shape}")
    return named.pop(name)


def _named(prefix: str, mixture: Mixture) -> dict[str, NDArray[np.float32]]:
    # Large, and rounded far below what the mixture is known to.
    return {f"{prefix}.{field.name}": getattr(mixture, field.name).astype(np.float32) for field in fields(mixture)}
