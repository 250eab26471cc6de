"""What computes the calls that most requests need: torch, ONNX Runtime on a CPU, or torch in bfloat16.

torch is the reference, the way to other devices, and computes all the rest. On a CPU, ONNX Runtime does the same in
half the time for a few rows, where torch spends most of it on preparing each of its many small steps. bfloat16 halves
the time of many rows where the processor has it.
"""

import copy
import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.inference.batcher import Call
from app.inference.queue import Arrays
from app.settings import EngineName, PrecisionName
from model.errors import ConfigError
from model.vae import VAE, to_tensor

#: Tensors with the batch first -> tensors with as many rows; of a model where it is said so, which then comes first.
Function = Callable[..., tuple[Tensor, ...]]
Mode = Callable[[], AbstractContextManager[Any]]
#: How far ONNX Runtime may be from torch, as a share of the largest magnitude of each array.
TOLERANCE = 1e-5
#: Rows that a runtime is held against torch on: one alone, and some together.
TRIALS = (1, 13)
log = logging.getLogger("vae")


@dataclass(frozen=True)
class Computed:
    """How one call is computed. `error` is the largest difference from torch's float32 over the largest magnitude."""

    engine: str
    precision: PrecisionName
    error: float


@dataclass
class Runtime:
    """How the calls of one model are computed; `made` tells what came of it, by name."""

    vae: VAE  # in float32, on its device
    engine: EngineName = "auto"
    precision: PrecisionName = "float32"
    score_precision: PrecisionName = "float32"
    made: dict[str, Computed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engine == "onnxruntime" and self.vae.device.type != "cpu":
            raise ConfigError(f"engine: onnxruntime runs on cpu, not on {self.vae.device}; use torch or auto")
        self._half = _in_bfloat16(self.vae) if "bfloat16" in {self.precision, self.score_precision} else self.vae

    @property
    def quick(self) -> VAE:
        """The model for encoding and decoding."""
        return self._half if self.precision == "bfloat16" else self.vae

    @property
    def exact(self) -> VAE:
        """The model for everything that goes into a score."""
        return self._half if self.score_precision == "bfloat16" else self.vae

    def compile(self, name: str, vae: VAE, function: Function, trials: Sequence[Arrays], *, onnx: bool = True) -> Call:
        """The fastest form of a call that agrees with torch.

        Args:
            name: of the call.
            vae: `quick` or `exact`.
            function: of a model.
            trials: arguments to hold it against torch on.
            onnx: whether ONNX Runtime may compute it at all.

        Raises:
            ConfigError: ONNX Runtime was asked for by name, and cannot compute this here or does not agree with torch.
        """
        reference = torch_call(lambda *x: function(self.vae, *x), self.vae)
        if vae is self._half and vae is not self.vae:
            half = torch_call(lambda *x: function(vae, *x), vae)
            error = disagreement(reference, half, trials)
            self.made[name] = Computed(f"torch {torch.__version__}", "bfloat16", error)
            return half
        self.made[name] = Computed(f"torch {torch.__version__}", "float32", 0.0)
        if not onnx or self.engine == "torch" or self.vae.device.type != "cpu":
            return reference
        try:
            call = OnnxCall(vae, function, [torch.from_numpy(array) for array in trials[-1]])
            error = disagreement(reference, call, trials)
        except Exception as failure:  # an exporter and a compiler, which raise what they like
            reason, level = f"ONNX Runtime cannot compute {name} of this model ({failure!s:.200})", logging.INFO
        else:
            if error <= TOLERANCE:
                self.made[name] = Computed(f"onnxruntime {onnxruntime.__version__}", "float32", error)
                return call
            reason, level = f"ONNX Runtime is {error:.1e} away from torch in {name}, not {TOLERANCE:g}", logging.WARNING
        if self.engine == "onnxruntime":
            raise ConfigError(f"engine: {reason}; use engine torch")
        log.log(level, "%s; torch computes it instead", reason)
        return reference


def torch_call(function: Function, vae: VAE, mode: Mode = torch.inference_mode) -> Call:
    """A function of tensors as one of arrays, on the device of a model."""
    device = str(vae.device)

    def call(*arrays: np.ndarray) -> Arrays:
        with mode():
            return tuple(output.cpu().numpy() for output in function(*(to_tensor(array, device) for array in arrays)))

    return call


def disagreement(reference: Call, other: Call, trials: Sequence[Arrays]) -> float:
    """How far two forms of a call are apart: the largest difference over the largest magnitude of an output."""
    worst = 0.0
    for arguments in trials:
        for expected, found in zip(reference(*arguments), other(*arguments), strict=True):
            share = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
            worst = max(worst, share if math.isfinite(share) else math.inf)
    return worst


class OnnxCall:
    """A function of a model, computed by ONNX Runtime on as many threads as torch has; arrays in, arrays out."""

    def __init__(self, vae: VAE, function: Function, example: Sequence[Tensor]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # A thread that spins while it waits takes its core from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.names = [f"x{index}" for index in range(len(example))]
        graph = _export(_Traced(vae, function), example, self.names)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, *arrays: np.ndarray) -> Arrays:
        given = {name: np.asarray(array, np.float32) for name, array in zip(self.names, arrays, strict=True)}
        return tuple(self.session.run(None, given))


class _Traced(nn.Module):
    """What the exporter takes: its weights are those of the model."""

    def __init__(self, vae: VAE, function: Function) -> None:
        super().__init__()
        self.vae = vae
        self.function = function

    def forward(self, *x: Tensor) -> tuple[Tensor, ...]:
        return self.function(self.vae, *x)


def _export(module: nn.Module, example: Sequence[Tensor], names: list[str]) -> bytes:
    """A module as an ONNX model with any number of rows.

    By the exporter that traces, though torch has a newer one: that takes seconds and 100 MB, which a server would spend
    at each start.
    """
    file = io.BytesIO()
    # It warns that it is the older one.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        outputs = [f"y{index}" for index in range(len(module(*example)))]
        torch.onnx.export(
            module,
            tuple(example),
            file,  # type: ignore[arg-type]  # the stubs know only of paths
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "rows"} for name in [*names, *outputs]},
        )
    return file.getvalue()


def _in_bfloat16(vae: VAE) -> VAE:
    """The same model with networks in bfloat16; all else of it stays in float32."""
    other = copy.copy(vae)
    other._modules = {**vae._modules, "encoder": Bfloat16(vae.encoder), "decoder": Bfloat16(vae.decoder)}
    return other


class Bfloat16(nn.Module):
    """A network in bfloat16, float32 in and out."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(body).bfloat16().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *out"]:
        out: Tensor = self.body(x.to(torch.bfloat16)).float()
        return out
