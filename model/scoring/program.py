"""The score of an input as a program: it says which model functions to call, and never calls one itself.

A program is a generator that yields `ModelCall` objects and returns scores. Its driver runs each call and hands over
the outputs. The command line drives programs with a loop (`run`), the service with its batcher, so both compute the
same scores by the same code. The design is that of h11: no input or output inside (sans-IO).

    >>> def double(*arrays):
    ...     return tuple(2 * array for array in arrays)
    >>> (doubled,) = run(call("double", np.arange(5)), {"double": double}, rows=2)
    >>> doubled.tolist()
    [0, 2, 4, 6, 8]
"""

import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from model import random
from model.data import Array, Floats
from model.likelihoods import Gaussian
from model.prior import Labels
from model.scoring.calibration import UNCALIBRATED, CalibratedScores, Calibration, ScoringConfig
from model.scoring.free_energy import FreeEnergy, LabelAccumulator, LogWeightAccumulator
from model.scoring.functions import Arrays, Call, typicality_name
from model.scoring.refine import VALIDATION_DRAWS, select_q
from model.scoring.typicality import TypicalityFeatures
from model.vae import to_gaussian

Result = TypeVar("Result")
#: Most rows in one call of a model function, unless the driver decides otherwise.
MAX_CALL_ROWS = 256
#: Draws of up to this many numbers are cached, for the most recent `MAX_CACHED_DRAWS` combinations of seed and shape.
MAX_CACHED_NUMBERS, MAX_CACHED_DRAWS = 1 << 14, 64
#: Reason why scores given a label have no p-values: the calibration is of x alone.
LABELLED = "scores given a label are not calibrated; leave the label out"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """Rows for one model function, made and consumed in slices of any size, in ascending order.

    `take(start, stop)` returns the arguments of rows, batch first. `put(start, stop, outputs)` takes their outputs.
    """

    function: str
    rows: int
    take: Callable[[int, int], Arrays]
    put: Callable[[int, int, Arrays], None]


Program = Generator[ModelCall, None, Result]


def run(program: Program[Result], functions: Mapping[str, Call], rows: int = MAX_CALL_ROWS) -> Result:
    """Drive a program in this thread, by calls of the named functions on at most `rows` rows."""
    while True:
        try:
            request = next(program)
        except StopIteration as finished:
            return cast("Result", finished.value)
        for start in range(0, request.rows, rows):
            stop = min(start + rows, request.rows)
            request.put(start, stop, functions[request.function](*request.take(start, stop)))


def call(function: str, *arrays: Array) -> Program[Arrays]:
    """Call a model function on whole arrays of equally many rows, and return its outputs."""
    rows, outputs = len(arrays[0]), list[Arrays]()
    yield ModelCall(
        function,
        rows,
        take=lambda start, stop: arrays if stop - start == rows else tuple(array[start:stop] for array in arrays),
        put=lambda _start, _stop, part: outputs.append(part),
    )
    return outputs[0] if len(outputs) == 1 else tuple(map(np.concatenate, zip(*outputs, strict=True)))


class Posterior(NamedTuple):
    """Q(z|x) of n inputs."""

    mean: Array  # n x latent
    scale: Array  # n x latent, standard deviations
    rate: Floats | None  # n, KL(Q(z|x), P(z)) in closed form, nats; None if the prior has none

    @classmethod
    def of(cls, q: Gaussian, *, analytic_rate: bool) -> "Posterior":
        """Q as arrays. `analytic_rate` is that of the prior, which is then standard."""
        mean, scale, rate = (tensor.detach().cpu().numpy() for tensor in (q.mean, q.scale, q.kl_to_normal().sum(1)))
        return cls(mean, scale, rate.astype(np.float64) if analytic_rate else None)

    @property
    def gaussian(self) -> Gaussian:
        """Q as tensors on the CPU that share memory with these arrays."""
        return Gaussian(torch.from_numpy(self.mean), torch.from_numpy(self.scale))


@dataclass(frozen=True)
class Scores:
    """The scores of n inputs under one `ScoringConfig`."""

    estimates: FreeEnergy
    regret: Floats | None  # nats; None where Q was not refined
    calibrated: CalibratedScores
    posterior: Posterior  # the encoder's Q
    per_dimension: NDArray[np.float32] | None  # terms of distortion averaged over the draws: n x data, nats
    label_probabilities: Floats | None  # P(label|x), n x labels


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """A question about labels that a score is to answer.

    Args:
        given: index of the label of each input, to score x given its label; None to score x alone.
        log_label: log P(label) of every label, for P(label|x); None if it is not asked for.
    """

    given: Labels | None = None
    log_label: Floats | None = None

    def __bool__(self) -> bool:
        return self.given is not None or self.log_label is not None

    @property
    def scores(self) -> "LabelQuery":
        """The part of it that changes scores."""
        return LabelQuery(self.given)


NO_LABELS = LabelQuery()


def score(
    x: Array,
    scoring: ScoringConfig,
    *,
    discrete_dims: int | None,
    calibration: Calibration | None = None,
    per_dimension: bool = False,
    labels: LabelQuery = NO_LABELS,
) -> Program[Scores]:
    """Score inputs by the same draws for every input, so that a score is a function of the input and `scoring` alone.

    With refinement the scores are those of the refined Q, and `regret` is the encoder's free energy minus the refined
    one, on the same draws. Q, and its refinement, know no labels. `discrete_dims` is that of
    `model.scoring.functions`. `per_dimension` and `labels` exclude each other.
    """
    mean, _, scale, *rate = yield from call("posterior", x)
    q = Posterior(mean, scale, rate[0].astype(np.float64) if rate else None)
    draws = _draws(scoring.seed, scoring.samples, mean.shape[1])
    last = not scoring.refine
    result = yield from estimate(x, q, draws, discrete_dims, per_dimension and last, labels if last else labels.scores)
    regret = None
    if scoring.refine:
        encoder_free_energy = result.scores.free_energy
        refined = yield from refine(x, q, scoring.refine, scoring.seed)
        result = yield from estimate(x, refined, draws, discrete_dims, per_dimension, labels)
        regret = encoder_free_energy - result.scores.free_energy
    calibrated = CalibratedScores(reason=LABELLED)
    if labels.given is None:
        calibrated = yield from _calibrate(x, q, result.scores, regret, scoring, calibration)
    return Scores(result.scores, regret, calibrated, q, result.per_dimension, result.label_probabilities)


def score_reference(x: Array, scoring: ScoringConfig, *, discrete_dims: int | None) -> Program[TypicalityFeatures]:
    """Score inputs that are to calibrate a model: what `Calibration.with_reference` takes."""
    scores = yield from score(x, scoring, discrete_dims=discrete_dims)
    columns = yield from call("typicality_features", x, scores.posterior.mean, scores.posterior.scale)
    estimates = scores.estimates
    return TypicalityFeatures.of(columns, estimates.distortion, estimates.free_energy, scores.regret)


class PlannedCalls(NamedTuple):
    """Calls of one model function, `times` times one after the other, on this many rows each time."""

    function: str
    rows: int
    times: int = 1


def plan(
    rows: int,
    scoring: ScoringConfig,
    *,
    calibration: Calibration | None = None,
    per_dimension: bool = False,
    labels: bool = False,
) -> list[PlannedCalls]:
    """All calls of `score` for this many inputs, so that a driver can estimate its duration before it begins.

    `labels` says whether the query asks about labels.
    """
    pairs, last = rows * scoring.samples, "map" if per_dimension else "score_given" if labels else "score"
    calls = [PlannedCalls("posterior", rows)]
    if scoring.refine:
        calls += [
            PlannedCalls("score", pairs),
            PlannedCalls("descend", rows, scoring.refine),
            PlannedCalls("judge", rows, VALIDATION_DRAWS),
        ]
    calls.append(PlannedCalls(last, pairs))
    if _typicality_of(scoring, calibration):
        calls.append(PlannedCalls(typicality_name(scoring), rows))
    return calls


class Estimate(NamedTuple):
    """The result of `estimate`."""

    scores: FreeEnergy
    per_dimension: NDArray[np.float32] | None
    label_probabilities: Floats | None


def estimate(
    x: Array,
    q: Posterior,
    draws: Array,
    discrete_dims: int | None,
    per_dimension: bool = False,
    labels: LabelQuery = NO_LABELS,
) -> Program[Estimate]:
    """Estimate scores of each input under its Q, from the same draws of standard normal noise for every input.

    A row is a pair of an input and one of K draws. Memory is that of the rows of one call. With `per_dimension` the
    result has the terms of distortion averaged over the draws: n x data, nats.
    """
    mean, scale, rate = q
    count, draws = len(draws), draws.astype(mean.dtype, copy=False)
    totals = LogWeightAccumulator(len(x))
    sums = np.zeros(x.shape) if per_dimension else None
    by_label = None if labels.log_label is None else LabelAccumulator(len(x), labels.log_label)

    def take(start: int, stop: int) -> Arrays:
        i, k = np.divmod(np.arange(start, stop), count)
        return x[i], mean[i], scale[i], draws[k]

    def put(start: int, stop: int, outputs: Arrays) -> None:
        sample = np.arange(start, stop) // count
        distortion, cross_entropy, nlog_q, *more = outputs
        if labels.given is not None:
            cross_entropy = more[0][np.arange(len(sample)), labels.given[sample]]
        totals.add(sample, distortion, cross_entropy, nlog_q)
        if sums is not None:
            np.add.at(sums, sample, more[0])
        if by_label is not None:
            by_label.add(sample, distortion, more[0], nlog_q)

    function = "map" if per_dimension else "score_given" if labels else "score"
    yield ModelCall(function, len(x) * count, take, put)
    return Estimate(
        totals.scores(rate if labels.given is None else None, discrete_dims),
        None if sums is None else (sums / count).astype(np.float32),
        None if by_label is None else by_label.probabilities(),
    )


def refine(x: Array, q: Posterior, steps: int, seed: int) -> Program[Posterior]:
    """Improve each input's Q by gradient steps on its own free energy (see `model.scoring.refine`).

    Each step is a call of its own, so that a driver can merge inputs with any number of steps into one call. The draws
    are independent of those that score. The given Q is returned where it has the lower free energy on fresh draws.
    """
    (rows, latent), dtype = q.mean.shape, q.mean.dtype

    def shared(draw: Array) -> Array:
        return np.broadcast_to(draw.astype(dtype, copy=False), (rows, latent))

    params = np.concatenate([q.mean, np.log(q.scale)], axis=1)
    state: Arrays = params, np.zeros_like(params), np.zeros_like(params)
    last = np.full((rows, 1), steps, dtype)
    for index, draw in enumerate(random.normal(seed, (steps, latent), random.REFINE)):
        step = np.full((rows, 1), index + 1, dtype)
        state = yield from call("descend", x, *state, shared(draw), step, last)
    gain = np.zeros(rows)
    for draw in random.normal(seed, (VALIDATION_DRAWS, latent), random.VALIDATE):
        gain += (yield from call("judge", x, q.mean, q.scale, state[0], shared(draw)))[0]
    selected = select_q(q.gaussian, to_gaussian(torch.from_numpy(state[0])), torch.from_numpy(gain))
    return Posterior.of(selected, analytic_rate=q.rate is not None)


def _calibrate(
    x: Array,
    q: Posterior,
    estimates: FreeEnergy,
    regret: Floats | None,
    scoring: ScoringConfig,
    calibration: Calibration | None,
) -> Program[CalibratedScores]:
    if calibration is None:
        return CalibratedScores(reason=UNCALIBRATED)
    typicality = None
    if _typicality_of(scoring, calibration):
        columns = [x, q.mean, q.scale, estimates.distortion, estimates.free_energy]
        columns += [] if regret is None else [regret]
        (typicality,) = yield from call(typicality_name(scoring), *columns)
    return calibration.rank(scoring, estimates.free_energy, regret, typicality)


def _typicality_of(scoring: ScoringConfig, calibration: Calibration | None) -> bool:
    """Return True if a calibration tells how typical an input is that is scored like this."""
    reference = calibration.references.get(scoring) if calibration is not None else None
    return reference is not None and reference.typicality_model is not None


def _draws(seed: int, draws: int, latent: int) -> NDArray[np.float32]:
    """Draws that score, shared by every input; most requests ask for the same few."""
    return (_cached_draws if draws * latent <= MAX_CACHED_NUMBERS else _make_draws)(seed, draws, latent)


def _make_draws(seed: int, draws: int, latent: int) -> NDArray[np.float32]:
    drawn = random.normal(seed, (draws, latent))
    drawn.flags.writeable = False
    return drawn


_cached_draws = functools.lru_cache(maxsize=MAX_CACHED_DRAWS)(_make_draws)
