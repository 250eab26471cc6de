"""A loaded model as asynchronous operations on arrays.

Every operation is rows through model functions, which a batcher merges over requests: a free energy with K draws is
one row per pair of a sample and a draw.
"""

import functools
import time
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.inference.admission import QueueLimits, one_call
from app.inference.backends import Runtime
from app.inference.batcher import Batcher, Observe
from app.inference.context import RequestContext
from app.inference.costs import Plan, PlannedCall
from app.inference.functions import ModelFunctions
from model import random
from model.checkpoint import Checkpoint
from model.interpolation import linear, spherical
from model.prior import Labels
from model.scoring import program
from model.scoring.calibration import ScoringConfig
from model.scoring.functions import discrete_dims
from model.scoring.program import NO_LABELS, LabelQuery, ModelCall, Scores

Floats = NDArray[np.float32]
Along = Literal["latent", "prior"]
#: Sizes that the largest batch may have, in rows, and the seconds that it should not exceed: others wait behind it.
BATCH_ROWS, MAX_CALL_SECONDS = (64, 128, 256), 3e-3


class Sample(NamedTuple):
    """Samples of the prior. `labels` are indices; None if the prior has no labels."""

    latents: Floats
    x: Floats
    labels: Labels | None


class Engine:
    """What a service can do with its model. All methods raise what `Batcher.run` raises."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_rows: int | None,
        limits: QueueLimits,
        observe: Observe,
        runtime: Runtime | None = None,
    ) -> None:
        began = time.perf_counter()
        self.checkpoint = checkpoint
        self.vae = checkpoint.vae
        self.runtime = runtime or Runtime(checkpoint.vae)
        self.functions = ModelFunctions(checkpoint, self.runtime)
        self.calls = self.functions.build()
        self.batcher = Batcher(
            self.calls,
            batch_rows=batch_rows or self._measure_batch_rows(),
            limits=limits,
            observe=observe,
            measure=lambda call: self.functions.measure(self.calls, call, self.batcher.batch_rows),
        )
        #: The calls of `free_energy`, by rows, scoring, per_dimension and whether it asks about labels.
        self.free_energy_plan = functools.lru_cache(maxsize=1024)(self._plan_free_energy)
        self.loading = time.perf_counter() - began  # seconds that compiling and warming up took

    def start(self) -> None:
        """Warm up every model function, then start the worker. Raise ArithmeticError if an output is not finite."""
        began = time.perf_counter()
        for call, (overhead, per_row) in self.functions.warm_up(self.calls, self.batcher.batch_rows).items():
            self.batcher.costs.measured(call, overhead, per_row)
        self.loading += time.perf_counter() - began
        self.batcher.start()

    def _measure_batch_rows(self) -> int:
        try:
            seconds = max(self.functions.seconds(self.calls, name, BATCH_ROWS[0]) for name in ("encode", "score"))
        except (ArithmeticError, MemoryError):  # `start` raises these with more detail
            return BATCH_ROWS[0]
        return choose_batch_rows(seconds)

    def encode_plan(self, rows: int) -> Plan:
        """The calls of `encode`, so that a request can be refused before its rows are read."""
        return one_call("encode", rows)

    def decode_plan(self, rows: int, *, noisy: bool) -> Plan:
        """The calls of `decode`."""
        return one_call("draw" if noisy else "decode", rows)

    def sample_plan(self, rows: int, *, noisy: bool) -> Plan:
        """The calls of `sample`."""
        labels = one_call("place", rows) if self.vae.prior.labels else ()
        prior = one_call("to_latent", rows) if self.functions.learned_prior else ()
        return (*labels, *prior, *self.decode_plan(rows, noisy=noisy))

    def interpolate_plan(self, rows: int, *, encoded: bool, steps: int, along: Along) -> Plan:
        """The calls of `interpolate`, for this number of ends."""
        through = along == "prior" and self.functions.learned_prior
        first = one_call("encode", rows) if encoded else ()
        there, back = (one_call("to_base", rows), one_call("to_latent", steps)) if through else ((), ())
        return (*first, *there, *back, *self.decode_plan(steps, noisy=False))

    def reconstruct_plan(self, rows: int) -> Plan:
        """The calls of `reconstruct`."""
        return one_call("reconstruct", rows)

    def _plan_free_energy(
        self, rows: int, scoring: ScoringConfig, *, per_dimension: bool = False, labels: bool = False
    ) -> Plan:
        calibration = self.checkpoint.calibration
        calls = program.plan(rows, scoring, calibration=calibration, per_dimension=per_dimension, labels=labels)
        aliases = self.functions.aliases
        return tuple(PlannedCall(aliases.get(function, function), rows, times) for function, rows, times in calls)

    def stop(self, timeout: float) -> None:
        """Finish what is queued, then end the worker."""
        self.batcher.stop(timeout)

    def retire(self) -> None:
        """End the worker, which must have nothing queued, without waiting for it."""
        self.batcher.stop(0)

    async def encode(self, x: Floats, context: RequestContext) -> tuple[Floats, Floats]:
        """Mean and variance of Q(z|x), n x latent."""
        mean, variance, *_ = await self.batcher.run("encode", x, context=context)
        return mean, variance

    async def decode(self, z: Floats, context: RequestContext, *, noise_seed: int | None = None) -> Floats:
        """The mean of P(x|z). With a seed a draw of P(x|z) instead: row i by the i-th draw of the seed's stream."""
        if noise_seed is None:
            return (await self.batcher.run("decode", z, context=context))[0]
        shape = self.vae.config.data.shape
        x = np.empty((len(z), *shape), np.float32)
        draw = ModelCall(
            "draw",
            len(z),
            take=lambda start, stop: (z[start:stop], random.uniform(noise_seed, range(start, stop), shape)),
            put=lambda start, stop, outputs: x.__setitem__(slice(start, stop), outputs[0]),
        )
        await self._call(draw, context)
        return x

    async def sample(
        self, count: int, seed: int, temperature: float, context: RequestContext, *, noisy: bool, label: int | None
    ) -> Sample:
        """epsilon ~ N(0, temperature^2 I) as z, by the prior, and its decoding.

        Args:
            noisy: draw x from P(x|z) instead of taking its mean.
            label: index of the label of all samples; None to draw the label of each.
        """
        prior = self.vae.prior
        epsilon = (temperature * random.normal(seed, (count, self.vae.config.latent))).astype(np.float32)
        if label is None:
            labels = prior.draw_labels(random.generator(seed, random.LABELS).random(count))
        else:
            labels = np.full(count, label)
        z = epsilon
        with self.batcher.admitted(context, self.sample_plan(count, noisy=noisy)):
            if prior.labels:
                (z,) = await self.batcher.run("place", z, labels, context=context)
            if self.functions.learned_prior:
                (z,) = await self.batcher.run("to_latent", z, context=context)
            x = await self.decode(z, context, noise_seed=seed if noisy else None)
        return Sample(z, x, labels if prior.labels else None)

    async def interpolate(
        self, ends: Floats, context: RequestContext, *, encoded: bool, steps: int, along: Along
    ) -> tuple[Floats, Floats]:
        """Latents on the way between two, and their decoded means: (latents, x).

        Args:
            ends: two inputs, whose means of Q are the ends; or two latents.
            encoded: the ends are inputs.
            along: latent: a straight line. prior: an arc between the u of both, where the prior has its mass.
        """
        through = along == "prior" and self.functions.learned_prior
        with self.batcher.admitted(context, self.interpolate_plan(2, encoded=encoded, steps=steps, along=along)):
            z = (await self.encode(ends, context))[0] if encoded else ends
            u = (await self.batcher.run("to_base", z, context=context))[0] if through else z
            path = linear if along == "latent" else spherical
            first, last = u.astype(np.float64)
            latents = path(first, last, steps).astype(np.float32)
            if through:
                (latents,) = await self.batcher.run("to_latent", latents, context=context)
                latents = np.concatenate([z[:1], latents[1:-1], z[1:]])  # without the rounding of the way back
            return latents, await self.decode(latents, context)

    async def reconstruct(self, x: Floats, context: RequestContext) -> Floats:
        """The mean of P(x|z) at the mean of Q(z|x)."""
        return (await self.batcher.run("reconstruct", x, context=context))[0]

    async def free_energy(
        self,
        x: Floats,
        scoring: ScoringConfig,
        context: RequestContext,
        *,
        per_dimension: bool = False,
        labels: LabelQuery = NO_LABELS,
    ) -> Scores:
        """Scores of each sample, see `model.scoring.program.score`."""
        scores = program.score(
            x,
            scoring,
            discrete_dims=discrete_dims(self.vae),
            calibration=self.checkpoint.calibration,
            per_dimension=per_dimension,
            labels=labels,
        )
        plan = self.free_energy_plan(len(x), scoring, per_dimension=per_dimension, labels=bool(labels))
        with self.batcher.admitted(context, plan):
            while True:
                try:
                    call = next(scores)
                except StopIteration as finished:
                    result: Scores = finished.value
                    return result
                await self._call(call, context)

    async def _call(self, call: ModelCall, context: RequestContext) -> None:
        name = self.functions.aliases.get(call.function, call.function)
        await self.batcher.stream(name, call.rows, take=call.take, put=call.put, context=context)


def choose_batch_rows(seconds: float) -> int:
    """The most rows of a call, given the seconds that a call of `BATCH_ROWS[0]` rows takes.

    A large model gets the smallest size that uses its device well, a fast one the largest that still helps.

    >>> choose_batch_rows(0.1), choose_batch_rows(0.0001)
    (64, 256)
    """
    smallest = BATCH_ROWS[0]
    return max(size for size in BATCH_ROWS if size == smallest or size * seconds <= smallest * MAX_CALL_SECONDS)
