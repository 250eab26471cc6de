"""Backends of the model calls: torch, ONNX Runtime on a CPU, or torch in bfloat16.

torch is the reference, runs on every device, and computes every call that no other backend can. On a CPU, ONNX Runtime
takes half the time for a few rows, because torch spends most of it on the overhead of many small operators. bfloat16
halves the time for many rows on processors with bfloat16 instructions.
"""

import copy
import io
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.settings import EngineName, PrecisionName
from model.errors import ConfigError
from model.scoring.functions import Arrays, Call, Function, torch_call
from model.vae import VAE

#: Maximum relative error of ONNX Runtime against torch, see `relative_error`.
TOLERANCE = 1e-5
#: Batch sizes of the probe inputs that a backend is compared with torch on.
PROBE_ROWS = (1, 13)
log = logging.getLogger("vae")


@dataclass(frozen=True)
class BackendInfo:
    """Backend of one call."""

    engine: str  # name and version
    precision: PrecisionName
    error: float  # relative error against torch in float32, see `relative_error`


@dataclass
class Runtime:
    """Choice of a backend for each call of one model.

    Raises:
        ConfigError: engine onnxruntime for a model that is not on a CPU.
    """

    vae: VAE  # in float32, on its device
    engine: EngineName = "auto"  # auto: ONNX Runtime if it agrees with torch
    precision: PrecisionName = "float32"  # of encoding and decoding
    score_precision: PrecisionName = "float32"  # of everything that goes into a score
    backends: dict[str, BackendInfo] = field(default_factory=dict)  # of each call, by name; filled by `compile`

    def __post_init__(self) -> None:
        if self.engine == "onnxruntime" and self.vae.device.type != "cpu":
            raise ConfigError(f"engine: onnxruntime runs on cpu, not on {self.vae.device}; use torch or auto")
        bfloat16 = to_bfloat16(self.vae) if "bfloat16" in {self.precision, self.score_precision} else self.vae
        self.fast = bfloat16 if self.precision == "bfloat16" else self.vae  # for encoding and decoding
        self.precise = bfloat16 if self.score_precision == "bfloat16" else self.vae  # for scores

    def compile(self, name: str, vae: VAE, function: Function, probes: Sequence[Arrays], *, onnx: bool = True) -> Call:
        """Return the fastest form of a call that agrees with torch, and note its backend.

        Args:
            vae: `fast` or `precise`.
            probes: arguments to compare a backend with torch on.
            onnx: False if ONNX Runtime cannot compute the function exactly enough.

        Raises:
            ConfigError: engine onnxruntime was set, and it cannot compute this call or disagrees with torch.
        """
        reference = torch_call(function, self.vae)
        if vae is not self.vae:
            call = torch_call(function, vae)
            error = relative_error(reference, call, probes)
            self.backends[name] = BackendInfo(f"torch {torch.__version__}", "bfloat16", error)
            return call
        self.backends[name] = BackendInfo(f"torch {torch.__version__}", "float32", 0.0)
        if not onnx or self.engine == "torch" or self.vae.device.type != "cpu":
            return reference
        try:
            call = OnnxCall(vae, function, [torch.from_numpy(array) for array in probes[-1]])
            error = relative_error(reference, call, probes)
        except Exception as failure:  # neither the exporter nor the compiler limits what it raises
            reason, level = f"ONNX Runtime cannot compute {name} of this model ({failure!s:.200})", logging.INFO
        else:
            if error <= TOLERANCE:
                self.backends[name] = BackendInfo(f"onnxruntime {onnxruntime.__version__}", "float32", error)
                return call
            reason = f"ONNX Runtime differs from torch by {error:.1e} in {name}, more than {TOLERANCE:g}"
            level = logging.WARNING
        if self.engine == "onnxruntime":
            raise ConfigError(f"engine: {reason}; use engine torch")
        log.log(level, "%s; using torch for it", reason)
        return reference


def relative_error(reference: Call, other: Call, probes: Sequence[Arrays]) -> float:
    """Largest absolute difference of an output over its largest magnitude, the maximum over outputs and probes.

    Infinity if it is not a finite number.
    """
    error = 0.0
    for arguments in probes:
        for expected, actual in zip(reference(*arguments), other(*arguments), strict=True):
            ratio = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-12))
            error = max(error, ratio if math.isfinite(ratio) else math.inf)
    return error


class OnnxCall:
    """A function of a model on a CPU, traced with `example`, that ONNX Runtime computes on as many threads as torch."""

    def __init__(self, vae: VAE, function: Function, example: Sequence[Tensor]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # A thread that spins while it waits takes CPU time from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.names = [f"x{index}" for index in range(len(example))]
        graph = _export(_Traced(vae, function), example, self.names)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, *arrays: np.ndarray) -> Arrays:
        inputs = {name: np.asarray(array, np.float32) for name, array in zip(self.names, arrays, strict=True)}
        return tuple(self.session.run(None, inputs))


class _Traced(nn.Module):
    """A function of a model as a module, which the exporter needs; the weights are those of the model."""

    def __init__(self, vae: VAE, function: Function) -> None:
        super().__init__()
        self.vae = vae
        self.function = function

    def forward(self, *x: Tensor) -> tuple[Tensor, ...]:
        return self.function(self.vae, *x)


def _export(module: nn.Module, example: Sequence[Tensor], names: list[str]) -> bytes:
    """Export a module as an ONNX model for any number of rows."""
    file = io.BytesIO()
    # The tracing exporter warns that it is deprecated. The newer one takes seconds and 100 MB at each start.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        outputs = [f"y{index}" for index in range(len(module(*example)))]
        torch.onnx.export(
            module,
            tuple(example),
            file,  # type: ignore[arg-type]  # the stubs allow paths only
            dynamo=False,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "rows"} for name in [*names, *outputs]},
        )
    return file.getvalue()


def to_bfloat16(vae: VAE) -> VAE:
    """Return a copy of a model with its networks in bfloat16; its other parts stay in float32 and are shared."""
    other = copy.copy(vae)
    other._modules = {**vae._modules, "encoder": Bfloat16(vae.encoder), "decoder": Bfloat16(vae.decoder)}
    return other


class Bfloat16(nn.Module):
    """A network computed in bfloat16, with float32 inputs and outputs."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(body).bfloat16().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *out"]:
        out: Tensor = self.body(x.to(torch.bfloat16)).float()
        return out
