"""A loaded model and a batcher as asynchronous operations on arrays.

Every operation is rows through one call of the model, so that requests of many clients ride together: free energies
with any number of draws are rows too, one per pair of a sample and a draw.
"""

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.batcher import Arrays, Batcher, Call, Observe
from model import noise, refine
from model.calibration import UNCALIBRATED, Protocol, Scored, Verdict
from model.checkpoint import Checkpoint
from model.complexity import complexity
from model.free_energy import FreeEnergy, Totals, terms
from model.likelihoods import Gaussian
from model.typicality import Sizes, residual
from model.vae import VAE, to_tensor

Floats = NDArray[np.float32]
Mode = Callable[[], AbstractContextManager[None]]


class Calls:
    """The calls of the model that the worker makes: float32 arrays in, float32 arrays out, batch first.

    Raises:
        ArithmeticError: an output is not finite.
    """

    def __init__(self, vae: VAE, device: str) -> None:
        self.vae = vae
        self.device = device

    def table(self) -> dict[str, Call]:
        """All of them, by name."""
        return {
            "encode": self._call(self._encode),
            "decode": self._call(self._decode),
            "draw": self._call(self._draw),
            "reconstruct": self._call(self._reconstruct),
            "score": self._call(self._score),
            "map": self._call(self._map),
            # Gradients cannot be taken of what inference mode has made.
            "descend": self._call(functools.partial(refine.descend, self.vae), torch.no_grad),
            "judge": self._call(self._judge),
            "sizes": self._call(self._sizes),
        }

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        q = self.vae.encode(x)
        return q.mean, q.scale, q.rate().sum(1)

    def _decode(self, z: Tensor) -> tuple[Tensor, ...]:
        return (self.vae.decode(z).mean,)

    def _draw(self, z: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        return (self.vae.decode(z).sample(uniform),)

    def _reconstruct(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.vae.decode(self.vae.encode(x).mean).mean,)

    def _score(self, x: Tensor, mean: Tensor, scale: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
        t = terms(self.vae, x, Gaussian(mean, scale), draw)
        return t.distortion, t.cross_entropy, t.nlog_q

    def _map(self, x: Tensor, mean: Tensor, scale: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
        t = terms(self.vae, x, Gaussian(mean, scale), draw)
        return t.distortion, t.cross_entropy, t.nlog_q, t.per_dimension

    def _judge(self, x: Tensor, mean: Tensor, scale: Tensor, place: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
        return (refine.excess(self.vae, x, Gaussian(mean, scale), refine.finish(place), draw),)

    def _sizes(self, x: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return residual(self.vae, x, mean), complexity(x, self.vae.config.data)

    def _call(self, function: Callable[..., tuple[Tensor, ...]], mode: Mode = torch.inference_mode) -> Call:
        def call(*arrays: NDArray[np.float32]) -> Arrays:
            with mode():
                outputs = function(*(to_tensor(array, self.device) for array in arrays))
                results = tuple(output.cpu().numpy() for output in outputs)
            if not all(np.isfinite(result).all() for result in results):
                raise ArithmeticError("it put out values that are not finite numbers")
            return results

        return call


#: Mean and scale of Q, n x latent, and its analytic rate, n.
Posterior = tuple[Floats, Floats, NDArray[np.float64]]


@dataclass(frozen=True)
class Scores:
    """The scores of n samples; with refinement the regret; what the calibration says of them; and where asked for
    the terms of distortion, averaged over the draws, n x data in nats.
    """

    scores: FreeEnergy
    regret: NDArray[np.float64] | None
    verdict: Verdict
    per_dimension: Floats | None


class Engine:
    """What the service can do with its model. All methods raise what `Batcher.run` raises."""

    def __init__(
        self, checkpoint: Checkpoint, *, batch_rows: int, queue_rows: int, device: str = "cpu", observe: Observe
    ) -> None:
        self.checkpoint = checkpoint
        self.vae = checkpoint.vae
        self.calls = Calls(checkpoint.vae, device).table()
        self.batcher = Batcher(self.calls, batch_rows=batch_rows, queue_rows=queue_rows, observe=observe)

    def start(self) -> None:
        """Warm every call up, so that the first request is as fast as the next, and start the worker.

        Raises:
            ArithmeticError: the model puts out values that are not finite.
        """
        config = self.vae.config
        x = np.zeros((1, *config.data.shape), np.float32)
        z = np.zeros((1, config.latent), np.float32)
        place, one = np.zeros((1, 2 * config.latent), np.float32), np.ones((1, 1), np.float32)
        arguments = {
            "encode": (x,),
            "decode": (z,),
            "draw": (z, x),
            "reconstruct": (x,),
            "descend": (x, place, place, place, z, one, one),
            "judge": (x, z, z + 1, place, z),
            "sizes": (x, z),
        }
        for name, call in self.calls.items():
            call(*arguments.get(name, (x, z, z + 1, z)))
        self.batcher.start()

    def stop(self, timeout: float) -> None:
        """Finish what is queued, then end the worker."""
        self.batcher.stop(timeout)

    async def encode(self, x: Floats, deadline: float) -> tuple[Floats, Floats]:
        """Mean and variance of Q(z|x), n x latent."""
        mean, scale, _ = await self.batcher.run("encode", x, deadline=deadline)
        return mean, np.square(scale)

    async def decode(self, z: Floats, deadline: float, *, noise_seed: int | None = None) -> Floats:
        """The mean of P(x|z), or with a seed a draw of it: row i by the i-th draw of the seed's stream."""
        if noise_seed is None:
            return (await self.batcher.run("decode", z, deadline=deadline))[0]
        shape = self.vae.config.data.shape
        x = np.empty((len(z), *shape), np.float32)
        await self.batcher.stream(
            "draw",
            len(z),
            take=lambda start, stop: (z[start:stop], noise.uniform(noise_seed, range(start, stop), shape)),
            put=lambda start, stop, outputs: x.__setitem__(slice(start, stop), outputs[0]),
            deadline=deadline,
        )
        return x

    async def sample(
        self, count: int, seed: int, temperature: float, deadline: float, *, noisy: bool
    ) -> tuple[Floats, Floats]:
        """z ~ N(0, temperature^2 I) and its decoding: (latents, x)."""
        z = temperature * noise.normal(seed, (count, self.vae.config.latent))
        z = z.astype(np.float32)
        return z, await self.decode(z, deadline, noise_seed=seed if noisy else None)

    async def reconstruct(self, x: Floats, deadline: float) -> Floats:
        """The mean of P(x|z) at the mean of Q(z|x)."""
        return (await self.batcher.run("reconstruct", x, deadline=deadline))[0]

    async def free_energy(
        self, x: Floats, draws: int, seed: int, deadline: float, *, steps: int = 0, per_dimension: bool = False
    ) -> Scores:
        """Scores from the same K draws for every sample, so that a score is a function of (x, seed, K, S) alone.

        With `steps` they are those of the refined Q, and `regret` is what the encoder's costs more on the same draws.
        """
        mean, scale, rate = await self.batcher.run("encode", x, deadline=deadline)
        q = mean, scale, rate.astype(np.float64)
        scores, surprise = await self._estimate(x, q, draws, seed, deadline, per_dimension and not steps)
        regret = None
        if steps:
            before = scores.free_energy
            refined = await self._refine(x, mean, scale, steps, seed, deadline)
            scores, surprise = await self._estimate(x, refined, draws, seed, deadline, per_dimension)
            regret = before - scores.free_energy
        verdict = await self._judge_scores(Protocol(draws, steps, seed), x, q, scores, regret, deadline)
        return Scores(scores, regret, verdict, surprise)

    async def _judge_scores(
        self,
        protocol: Protocol,
        x: Floats,
        q: Posterior,
        scores: FreeEnergy,
        regret: NDArray[np.float64] | None,
        deadline: float,
    ) -> Verdict:
        calibration = self.checkpoint.calibration
        if calibration is None or protocol not in calibration.references:
            return Verdict(reason=UNCALIBRATED) if calibration is None else calibration.refuse(protocol)
        mean, scale, rate = q
        missed, measured = await self.batcher.run("sizes", x, mean, deadline=deadline)
        sizes = Sizes(
            mean.astype(np.float64),
            np.linalg.norm(scale.astype(np.float64), axis=1),
            rate,
            missed.astype(np.float64),
            measured.astype(np.float64),
        )
        # A density of hundreds of dimensions is more than the event loop has time for.
        return await asyncio.to_thread(calibration.judge, protocol, Scored(scores, regret, sizes))

    async def _estimate(
        self, x: Floats, q: Posterior, draws: int, seed: int, deadline: float, per_dimension: bool
    ) -> tuple[FreeEnergy, Floats | None]:
        config = self.vae.config
        mean, scale, rate_analytic = q
        draw = noise.normal(seed, (draws, config.latent))
        totals = Totals(len(x))
        surprise = np.zeros(x.shape, np.float64) if per_dimension else None

        def take(start: int, stop: int) -> Arrays:
            i, k = np.divmod(np.arange(start, stop), draws)
            return x[i], mean[i], scale[i], draw[k]

        def put(start: int, stop: int, outputs: Arrays) -> None:
            sample = np.arange(start, stop) // draws
            totals.add(sample, *outputs[:3])
            if surprise is not None:
                np.add.at(surprise, sample, outputs[3])

        call = "map" if per_dimension else "score"
        await self.batcher.stream(call, len(x) * draws, take=take, put=put, deadline=deadline)
        scores = totals.scores(rate_analytic, config.data.dims if self.vae.levels else None)
        return scores, None if surprise is None else (surprise / draws).astype(np.float32)

    async def _refine(
        self, x: Floats, mean: Floats, scale: Floats, steps: int, seed: int, deadline: float
    ) -> Posterior:
        """As `model.refine.refine`: a step is a call, so that requests with any number of them share batches."""
        rows, latent = len(x), self.vae.config.latent
        place = np.concatenate([mean, np.log(scale)], axis=1)
        state: Arrays = place, np.zeros_like(place), np.zeros_like(place)
        last = np.full((rows, 1), steps, np.float32)
        for index, draw in enumerate(noise.normal(seed, (steps, latent), noise.REFINE)):
            number = np.full((rows, 1), index + 1, np.float32)
            draws = np.broadcast_to(draw, (rows, latent))
            state = await self.batcher.run("descend", x, *state, draws, number, last, deadline=deadline)
        gain = np.zeros(rows)
        for judge in noise.normal(seed, (refine.JUDGES, latent), noise.JUDGE):
            draws = np.broadcast_to(judge, (rows, latent))
            gain += (await self.batcher.run("judge", x, mean, scale, state[0], draws, deadline=deadline))[0]
        q = Gaussian(torch.from_numpy(mean), torch.from_numpy(scale))
        chosen = refine.better(q, refine.finish(torch.from_numpy(state[0])), torch.from_numpy(gain))
        return chosen.mean.numpy(), chosen.scale.numpy(), chosen.rate().sum(1).double().numpy()
