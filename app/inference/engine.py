"""A loaded model and a batcher as asynchronous operations on arrays.

Every operation is rows through one call of the model, so that requests of many clients ride together: free energies
with any number of draws are rows too, one per pair of a sample and a draw.
"""

import functools
import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.inference.backends import TRIALS, Function, Mode, Runtime, torch_call
from app.inference.batcher import Batcher, Call, Observe
from app.inference.queue import Arrays, RequestContext
from model import random
from model.checkpoint import Checkpoint
from model.likelihoods import Gaussian
from model.scoring import refine
from model.scoring.calibration import UNCALIBRATED, Protocol, Verdict
from model.scoring.free_energy import FreeEnergy, Totals, terms
from model.scoring.typicality import Sizes, Typical
from model.vae import VAE, to_tensor

#: In the words of torch on a CPU, of torch on a GPU, and of ONNX Runtime, none of which says it by type alone.
NO_MEMORY = re.compile(r"can't allocate memory|out of memory|[Ff]ailed to allocate memory|bad_alloc|bad allocation")
#: Seconds that a call may take for others to wait behind it, and how many rows it may have.
SLICE, SLICE_ROWS = 3e-3, (64, 128, 256)
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Calls:
    """The calls of the model that the worker makes: arrays in, arrays out, batch first.

    Raises:
        ArithmeticError: an output is not finite.
    """

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime) -> None:
        self.vae = checkpoint.vae
        self.runtime = runtime
        known = checkpoint.calibration.references if checkpoint.calibration else {}
        self.typicals = {protocol: found.typical for protocol, found in known.items() if found.typical}

    def table(self) -> dict[str, Call]:
        """All of them, by name."""
        quick, exact = self.runtime.quick, self.runtime.exact
        trials = [_trial(self.vae, rows) for rows in TRIALS]
        of_x, of_z = [(x,) for x, *_ in trials], [(z,) for *_, z in trials]
        encode = self.runtime.compile("encode", quick, _encode, of_x)
        decode = self.runtime.compile("decode", quick, _decode, of_z)
        same = quick is exact
        mean_of = decode if same else self._torch(functools.partial(_decode, exact))
        calls = {
            "encode": encode,
            "decode": decode,
            "reconstruct": lambda x: decode(encode(x)[0]),
            "posterior": encode if same else self.runtime.compile("posterior", exact, _encode, of_x),
            "score": self.runtime.compile("score", exact, _score, trials, onnx=self.vae.config.likelihood.onnx_exact),
            "draw": self._torch(functools.partial(_draw, quick)),
            "map": self._torch(functools.partial(_map, exact)),
            # Gradients cannot be taken of what inference mode has made, nor of what torch has not computed.
            "descend": self._torch(functools.partial(refine.descend, self.vae), torch.no_grad),
            "judge": self._torch(functools.partial(_judge, exact)),
        }
        for protocol, typical in self.typicals.items():
            calls[f"typicality, {protocol}"] = self._typicality(typical, mean_of)
        return {name: _finite(call) for name, call in calls.items()}

    def _torch(self, function: Function, mode: Mode = torch.inference_mode) -> Call:
        return torch_call(function, self.vae, mode)

    def _typicality(self, typical: Typical, decode: Call) -> Call:
        """Typicality, from x, mean and scale of Q, distortion, free energy, and where Q was refined regret.

        Densities of hundreds of dimensions: a call of their own takes as long as all the rest of a small request, and
        little more for many rows.
        """
        device = str(self.vae.device)

        def call(x: Floats, mean: Floats, scale: Floats, *scores: Doubles) -> Arrays:
            tensor, q = to_tensor(x, device), Gaussian(to_tensor(mean, device), to_tensor(scale, device))
            distortion, free_energy, *regret = scores
            with torch.inference_mode():
                sizes = Sizes.of(self.vae, tensor, q, to_tensor(decode(mean)[0], device))
            return (typical.score(sizes, _Costs(distortion, free_energy), regret[0] if regret else None),)

        return call


def _encode(vae: VAE, x: Tensor) -> tuple[Tensor, ...]:
    q = vae.encode(x)
    return q.mean, q.scale.square(), q.scale, q.rate().sum(1)


def _decode(vae: VAE, z: Tensor) -> tuple[Tensor, ...]:
    return (vae.decode(z).mean,)


def _draw(vae: VAE, z: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
    return (vae.decode(z).sample(uniform),)


def _score(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
    t = terms(vae, x, Gaussian(mean, scale), draw)
    return t.distortion, t.cross_entropy, t.nlog_q


def _map(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
    t = terms(vae, x, Gaussian(mean, scale), draw)
    return t.distortion, t.cross_entropy, t.nlog_q, t.per_dimension


def _judge(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, place: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
    return (refine.excess(vae, x, Gaussian(mean, scale), refine.finish(place), draw),)


def _trial(vae: VAE, rows: int) -> Arrays:
    """x, mean and scale of Q, and a draw, as requests for the model's own samples have them."""
    z = to_tensor(random.normal(0, (rows, vae.config.latent)), str(vae.device))
    with torch.inference_mode():
        x = vae.decode(z).mean
        q = vae.encode(x)
    return tuple(tensor.cpu().numpy() for tensor in (x, q.mean, q.scale, z))


def _finite(call: Call) -> Call:
    def checked(*arrays: NDArray[Any]) -> Arrays:
        try:
            results = call(*arrays)
        except Exception as error:
            if NO_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise
        if not all(np.isfinite(result).all() for result in results):
            raise ArithmeticError("it put out values that are not finite numbers")
        return results

    return checked


def _draws(seed: int, draws: int, latent: int) -> Floats:
    """Draws for scores, the same for every sample; most requests ask for the same few."""
    return (_draws_once if draws * latent <= FEW else _draw_all)(seed, draws, latent)


def _timed(call: Call, arguments: Arrays) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def _draw_all(seed: int, draws: int, latent: int) -> Floats:
    drawn = random.normal(seed, (draws, latent))
    drawn.flags.writeable = False
    return drawn


#: Numbers up to which draws are kept for the next request, of this many kinds of request.
FEW = 1 << 14
_draws_once = functools.lru_cache(maxsize=64)(_draw_all)


@dataclass(frozen=True)
class _Costs:
    distortion: Doubles
    free_energy: Doubles


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
        self,
        checkpoint: Checkpoint,
        *,
        batch_rows: int | None,
        queue_rows: int,
        queue_seconds: float,
        observe: Observe,
        runtime: Runtime | None = None,
    ) -> None:
        began = time.perf_counter()
        self.checkpoint = checkpoint
        self.vae = checkpoint.vae
        self.runtime = runtime or Runtime(checkpoint.vae)
        calls = Calls(checkpoint, self.runtime)
        self.calls = calls.table()
        self._typical = frozenset(calls.typicals)
        # Where both are computed alike they share batches.
        self._posterior = "encode" if self.runtime.exact is self.runtime.quick else "posterior"
        self.batcher = Batcher(
            self.calls,
            batch_rows=batch_rows or self._slice(),
            queue_rows=queue_rows,
            queue_seconds=queue_seconds,
            observe=observe,
        )
        #: Seconds in which all of it was compiled, and each call tried.
        self.loading = time.perf_counter() - began

    def start(self) -> None:
        """Warm every call up, so that the first request is as fast as the next, and start the worker.

        Raises:
            ArithmeticError: the model puts out values that are not finite.
        """
        began, config = time.perf_counter(), self.vae.config
        x = np.zeros((1, *config.data.shape), np.float32)
        z = np.zeros((1, config.latent), np.float32)
        place, one = np.zeros((1, 2 * config.latent), np.float32), np.ones((1, 1), np.float32)
        arguments: dict[str, Arrays] = {
            "encode": (x,),
            "posterior": (x,),
            "decode": (z,),
            "draw": (z, x),
            "reconstruct": (x,),
            "descend": (x, place, place, place, z, one, one),
            "judge": (x, z, z + 1, place, z),
        }
        number = np.ones(1)
        for protocol in self._typical:
            arguments[f"typicality, {protocol}"] = (x, z, z + 1, *[number] * (3 if protocol.refine else 2))
        for name, call in self.calls.items():
            call(*arguments.get(name, (x, z, z + 1, z)))
        self.loading += time.perf_counter() - began
        self.batcher.start()

    def _slice(self) -> int:
        """Rows of a call that takes some `SLICE` seconds, for nobody to wait long behind it; but of a large model as
        many at least as make good use of it, and of a small one no more than help.
        """
        rows, config = SLICE_ROWS[0], self.vae.config
        x = np.zeros((rows, *config.data.shape), np.float32)
        z = np.zeros((rows, config.latent), np.float32)
        seconds = 0.0
        try:
            for name, arguments in (("encode", (x,)), ("score", (x, z, z + 1, z))):
                seconds = max(seconds, min(_timed(self.calls[name], arguments) for _ in range(2)))
        except (ArithmeticError, MemoryError):  # which say more when the service starts
            return rows
        return max(size for size in SLICE_ROWS if size == rows or size * seconds <= rows * SLICE)

    def stop(self, timeout: float) -> None:
        """Finish what is queued, then end the worker."""
        self.batcher.stop(timeout)

    def retire(self) -> None:
        """End the worker, which has nothing queued, without waiting for it."""
        self.batcher.stop(0)

    async def encode(self, x: Floats, context: RequestContext) -> tuple[Floats, Floats]:
        """Mean and variance of Q(z|x), n x latent."""
        mean, variance, *_ = await self.batcher.run("encode", x, context=context)
        return mean, variance

    async def decode(self, z: Floats, context: RequestContext, *, noise_seed: int | None = None) -> Floats:
        """The mean of P(x|z), or with a seed a draw of it: row i by the i-th draw of the seed's stream."""
        if noise_seed is None:
            return (await self.batcher.run("decode", z, context=context))[0]
        shape = self.vae.config.data.shape
        x = np.empty((len(z), *shape), np.float32)
        await self.batcher.stream(
            "draw",
            len(z),
            take=lambda start, stop: (z[start:stop], random.uniform(noise_seed, range(start, stop), shape)),
            put=lambda start, stop, outputs: x.__setitem__(slice(start, stop), outputs[0]),
            context=context,
        )
        return x

    async def sample(
        self, count: int, seed: int, temperature: float, context: RequestContext, *, noisy: bool
    ) -> tuple[Floats, Floats]:
        """z ~ N(0, temperature^2 I) and its decoding: (latents, x)."""
        z = temperature * random.normal(seed, (count, self.vae.config.latent))
        z = z.astype(np.float32)
        return z, await self.decode(z, context, noise_seed=seed if noisy else None)

    async def reconstruct(self, x: Floats, context: RequestContext) -> Floats:
        """The mean of P(x|z) at the mean of Q(z|x)."""
        return (await self.batcher.run("reconstruct", x, context=context))[0]

    async def free_energy(
        self, x: Floats, draws: int, seed: int, context: RequestContext, *, steps: int = 0, per_dimension: bool = False
    ) -> Scores:
        """Scores from the same K draws for every sample, so that a score is a function of (x, seed, K, S) alone.

        With `steps` they are those of the refined Q, and `regret` is what the encoder's costs more on the same draws.
        """
        rows = {"map" if per_dimension else "score": len(x) * draws}
        if steps:
            rows |= {"score": len(x) * draws, "descend": len(x) * steps}
        with self.batcher.admission.promised(context, rows):
            return await self._free_energy(x, draws, seed, context, steps, per_dimension)

    async def _free_energy(
        self, x: Floats, draws: int, seed: int, context: RequestContext, steps: int, per_dimension: bool
    ) -> Scores:
        mean, _, scale, rate = await self.batcher.run(self._posterior, x, context=context)
        q = mean, scale, rate.astype(np.float64)
        scores, surprise = await self._estimate(x, q, draws, seed, context, per_dimension and not steps)
        regret = None
        if steps:
            before = scores.free_energy
            refined = await self._refine(x, mean, scale, steps, seed, context)
            scores, surprise = await self._estimate(x, refined, draws, seed, context, per_dimension)
            regret = before - scores.free_energy
        verdict = await self._judge_scores(Protocol(draws, steps, seed), x, q, scores, regret, context)
        return Scores(scores, regret, verdict, surprise)

    async def _judge_scores(
        self,
        protocol: Protocol,
        x: Floats,
        q: Posterior,
        scores: FreeEnergy,
        regret: NDArray[np.float64] | None,
        context: RequestContext,
    ) -> Verdict:
        calibration = self.checkpoint.calibration
        if calibration is None or protocol not in calibration.references:
            return Verdict(reason=UNCALIBRATED) if calibration is None else calibration.refuse(protocol)
        typicality = None
        if protocol in self._typical:
            columns: list[NDArray[Any]] = [x, q[0], q[1], scores.distortion, scores.free_energy]
            if regret is not None:
                columns.append(regret)
            typicality = (await self.batcher.run(f"typicality, {protocol}", *columns, context=context))[0]
        return calibration.rank(protocol, scores.free_energy, regret, typicality)

    async def _estimate(
        self, x: Floats, q: Posterior, draws: int, seed: int, context: RequestContext, per_dimension: bool
    ) -> tuple[FreeEnergy, Floats | None]:
        config = self.vae.config
        mean, scale, rate_analytic = q
        draw = _draws(seed, draws, config.latent)
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
        await self.batcher.stream(call, len(x) * draws, take=take, put=put, context=context)
        scores = totals.scores(rate_analytic, config.data.dims if self.vae.levels else None)
        return scores, None if surprise is None else (surprise / draws).astype(np.float32)

    async def _refine(
        self, x: Floats, mean: Floats, scale: Floats, steps: int, seed: int, context: RequestContext
    ) -> Posterior:
        """As `model.scoring.refine`: a step is a call, so that requests with any number of them share batches."""
        rows, latent = len(x), self.vae.config.latent
        place = np.concatenate([mean, np.log(scale)], axis=1)
        state: Arrays = place, np.zeros_like(place), np.zeros_like(place)
        last = np.full((rows, 1), steps, np.float32)
        for index, draw in enumerate(random.normal(seed, (steps, latent), random.REFINE)):
            number = np.full((rows, 1), index + 1, np.float32)
            draws = np.broadcast_to(draw, (rows, latent))
            state = await self.batcher.run("descend", x, *state, draws, number, last, context=context)
        gain = np.zeros(rows)
        for judge in random.normal(seed, (refine.JUDGES, latent), random.VALIDATE):
            draws = np.broadcast_to(judge, (rows, latent))
            gain += (await self.batcher.run("judge", x, mean, scale, state[0], draws, context=context))[0]
        q = Gaussian(torch.from_numpy(mean), torch.from_numpy(scale))
        chosen = refine.better(q, refine.finish(torch.from_numpy(state[0])), torch.from_numpy(gain))
        return chosen.mean.numpy(), chosen.scale.numpy(), chosen.rate().sum(1).double().numpy()
