"""Model functions as the worker thread runs them: arrays in, arrays out, batch first.

To add a function, add a row to `FUNCTIONS`.
"""

import re
import timeit
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from app.inference.backends import PROBE_ROWS, Runtime
from app.inference.costs import SLICE_SECONDS
from model import random
from model.checkpoint import Checkpoint
from model.scoring import functions
from model.scoring.functions import Arrays, Call, Function, Mode, torch_call
from model.scoring.refine import refine_step
from model.vae import VAE, to_tensor

#: Messages of torch on a CPU, of torch on a GPU, and of ONNX Runtime, whose exception types do not tell.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|[Ff]ailed to allocate memory|bad_alloc|bad allocation")


class FunctionSpec(NamedTuple):
    """How to build one model function."""

    function: Function
    arguments: tuple[str, ...]  # columns of `probe_inputs`, by which the function is compiled and warmed up
    model: Literal["fast", "precise", "float32"]  # fast: for encoding and decoding; precise: for scores
    compiled: bool = False  # True if ONNX Runtime may compute it
    alias: str | None = None  # function that replaces it if both have the same model, so that their rows share batches
    mode: Mode = torch.inference_mode


FUNCTIONS = {
    "encode": FunctionSpec(functions.encode, ("x",), "fast", compiled=True),
    "place": FunctionSpec(functions.place, ("epsilon", "label"), "float32"),
    "to_latent": FunctionSpec(functions.to_latent, ("u",), "float32", compiled=True),
    "to_base": FunctionSpec(functions.to_base, ("z",), "float32", compiled=True),
    "decode": FunctionSpec(functions.decode, ("z",), "fast", compiled=True),
    "draw": FunctionSpec(functions.draw, ("z", "x"), "fast"),
    "posterior": FunctionSpec(functions.encode, ("x",), "precise", compiled=True, alias="encode"),
    "precise decode": FunctionSpec(functions.decode, ("z",), "precise", alias="decode"),
    "score": FunctionSpec(functions.score, ("x", "mean", "scale", "epsilon"), "precise", compiled=True),
    "score_given": FunctionSpec(functions.score_given, ("x", "mean", "scale", "epsilon"), "precise", compiled=True),
    "map": FunctionSpec(functions.score_per_dimension, ("x", "mean", "scale", "epsilon"), "precise"),
    # Inference mode allows no gradients.
    "descend": FunctionSpec(
        refine_step, ("x", "params", "moment", "moment", "epsilon", "step", "step"), "float32", mode=torch.no_grad
    ),
    "judge": FunctionSpec(functions.compare, ("x", "mean", "scale", "params", "epsilon"), "precise"),
}


class ModelFunctions:
    """The model functions of one checkpoint, by name, as `runtime` computes them."""

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime) -> None:
        self.vae = checkpoint.vae
        self.runtime = runtime
        self.calibration = checkpoint.calibration
        missing = set[str]() if self.vae.prior.labels else {"place", "score_given"}
        missing |= set() if self.learned_prior else {"to_latent", "to_base"}
        self.specs = {name: spec for name, spec in FUNCTIONS.items() if name not in missing}
        self.arguments = {name: spec.arguments for name, spec in self.specs.items()}
        self._models = {"fast": runtime.fast, "precise": runtime.precise, "float32": self.vae}
        self.aliases = {  # functions that others stand in for
            name: spec.alias
            for name, spec in self.specs.items()
            if spec.alias and self._models[spec.model] is self._models[self.specs[spec.alias].model]
        }
        self._probes = [probe_inputs(self.vae, rows) for rows in PROBE_ROWS]

    @property
    def learned_prior(self) -> bool:
        """True if u and z differ; under the standard prior they are the same, and there is no function between them."""
        return self.vae.config.prior.name != "standard"

    def build(self) -> dict[str, Call]:
        """Compile every function. Raises as `Runtime.compile` does.

        The calls raise ArithmeticError if an output is not finite, and MemoryError if memory is exhausted.
        """
        calls = {name: self._compile(name, spec) for name, spec in self.specs.items() if name not in self.aliases}
        encode, decode = calls["encode"], calls["decode"]
        calls["reconstruct"] = lambda x: decode(encode(x)[0])
        self.arguments["reconstruct"] = ("x",)
        features = functions.features_call(self.vae, calls[self.aliases.get("precise decode", "precise decode")])
        for scoring, call in functions.typicality_calls(self.calibration, features).items():
            name = functions.typicality_name(scoring)
            calls[name] = call
            self.arguments[name] = ("x", "mean", "scale", "nats", "nats", *(["nats"] if scoring.refine else []))
        return {name: _checked(call) for name, call in calls.items()}

    def _compile(self, name: str, spec: FunctionSpec) -> Call:
        vae = self._models[spec.model]
        if not spec.compiled:
            return torch_call(spec.function, vae, spec.mode)
        # ONNX has no expm1, and the logarithms of ONNX Runtime are off by 1.6e-5: too far for a code length.
        onnx = not name.startswith("score") or self.vae.config.likelihood.onnx_exact
        probes = [tuple(probe[column] for column in spec.arguments) for probe in self._probes]
        return self.runtime.compile(name, vae, spec.function, probes, onnx=onnx)

    def warm_up(self, calls: Mapping[str, Call], batch_rows: int) -> dict[str, tuple[float, float]]:
        """Call each function, so that the first request is as fast as later ones. Return what `measure` does, by name.

        Raises: as the calls do.
        """
        for name, call in calls.items():
            call(*self._example(name))
        return {name: self.measure(calls, name, batch_rows) for name in calls}

    def measure(self, calls: Mapping[str, Call], name: str, batch_rows: int) -> tuple[float, float]:
        """Measure the seconds of a call without rows, and those of each row. Raises as the call does.

        Two sizes are measured: a row, and as many, up to `batch_rows`, as a slice has time for.
        """
        one = self.seconds(calls, name, 1)
        least = 8 if one < 2 * SLICE_SECONDS else 2
        rows = min(batch_rows, max(least, int(SLICE_SECONDS / one)))
        try:
            many = self.seconds(calls, name, rows) if rows > 1 else one
        except (ArithmeticError, MemoryError):  # what fails on so many rows is a matter for the request
            rows, many = 1, one
        if rows == 1:
            return 0.0, one
        per_row = max((many - one) / (rows - 1), many / rows / 10)
        return max(0.0, many - rows * per_row), per_row

    def seconds(self, calls: Mapping[str, Call], name: str, rows: int) -> float:
        """Seconds that one call of a function takes: the shortest of three, or of two if they take long.

        Raises: as the call does.
        """
        arguments = self._example(name, rows)
        best = min(timeit.repeat(lambda: calls[name](*arguments), number=1, repeat=2))
        return best if best > SLICE_SECONDS else min(best, timeit.timeit(lambda: calls[name](*arguments), number=1))

    def _example(self, name: str, rows: int = 1) -> Arrays:
        columns = [self._probes[0][column] for column in self.arguments[name]]
        return tuple(np.repeat(column[:1], rows, axis=0) for column in columns)


def probe_inputs(vae: VAE, rows: int) -> dict[str, NDArray[Any]]:
    """Arguments of model functions, such as requests for the model's own samples have."""
    epsilon = to_tensor(random.normal(0, (rows, vae.config.latent)), str(vae.device))
    with torch.inference_mode():
        u = vae.prior.place(epsilon, np.zeros(rows, np.int64))
        z = vae.prior.to_latent(u)
        x = vae.decode(z).mean
        q = vae.encode(x)
        params = torch.cat([q.mean, q.scale.log()], dim=1)
    tensors = {"x": x, "mean": q.mean, "scale": q.scale, "u": u, "z": z, "epsilon": epsilon}
    tensors |= {"params": params, "moment": torch.zeros_like(params)}
    arrays: dict[str, NDArray[Any]] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    return {**arrays, "step": np.ones((rows, 1), np.float32), "nats": np.ones(rows), "label": np.zeros(rows, np.int64)}


def _checked(call: Call) -> Call:
    def checked(*arrays: NDArray[Any]) -> Arrays:
        try:
            results = call(*arrays)
        except Exception as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            raise
        if not all(np.isfinite(result).all() for result in results):
            raise ArithmeticError("the model returned values that are not finite numbers")
        return results

    return checked
