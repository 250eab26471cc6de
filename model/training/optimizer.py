"""The optimizer of a training: AdamW for all weights, or Muon for weight matrices and AdamW for the rest.

Muon takes steps of equal size in all directions of a weight matrix (Jordan et al. 2024). They are scaled to the size of
AdamW's steps (Liu et al. 2025, arXiv 2502.16982), so that both share one learning rate and one weight decay.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Layers between feature maps and latents. Muon would spend as much time on these large matrices as on all others.
#: Parameters of the likelihood (`head.`) use AdamW too.
ADAMW_ONLY = ("encoder.out.weight", "decoder.inner.weight")


class Optimizer:
    """Minimizes by the gradients of a module's weights.

    For Muon the weight of a convolution is a matrix of output channels x (input channels x kernel).
    """

    def __init__(
        self, module: nn.Module, name: Literal["adamw", "muon"], *, learning_rate: float, weight_decay: float
    ) -> None:
        self.weights = dict(module.named_parameters())
        # Matrices share memory with the weights, so that a step on a matrix is a step on its weight.
        self.matrices = {
            key: _matrix(weight.detach())
            for key, weight in self.weights.items()
            if name == "muon" and weight.ndim >= 2 and key not in ADAMW_ONLY and not key.startswith("head.")
        }
        others = [weight for key, weight in self.weights.items() if key not in self.matrices]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        ]
        if self.matrices:
            matrices = list(self.matrices.values())
            self.optimizers.append(
                torch.optim.Muon(matrices, learning_rate, weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, learning_rate: float) -> None:
        """Take one step by the gradients on the weights, then clear them."""
        for name, matrix in self.matrices.items():
            gradient = self.weights[name].grad
            matrix.grad = None if gradient is None else _matrix(gradient)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        for weight in (*self.weights.values(), *self.matrices.values()):
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments of all weights, keyed `<weight>.<moment>`."""
        return {
            f"{name}.{moment}": value
            for name, (optimizer, parameter) in self._parameters().items()
            for moment, value in optimizer.state[parameter].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a copy of a `state`.

        Raises:
            KeyError: a moment is missing, unknown, or of another shape.
        """
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        for key, value in state.items():
            name, _, moment = key.rpartition(".")
            moments[name][moment] = value.clone()
        for name, (optimizer, parameter) in self._parameters().items():
            if not moments[name]:
                continue  # A weight without a step has no moments.
            shape = parameter.shape
            expected = (
                {"momentum_buffer": shape}
                if name in self.matrices
                else {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
            )
            if {moment: value.shape for moment, value in moments[name].items()} != expected:
                raise KeyError(f"moments of {name}")
            # Fused steps go through memory in order, so moments need the memory layout of the weight.
            optimizer.state[parameter] = {
                moment: value if moment == "step" else torch.empty_like(parameter).copy_(value)
                for moment, value in moments[name].items()
            }

    def _parameters(self) -> dict[str, tuple[torch.optim.Optimizer, Tensor]]:
        """The optimizer of each weight, and the tensor by which it keys the moments."""
        return {
            name: (self.optimizers[1], self.matrices[name]) if name in self.matrices else (self.optimizers[0], weight)
            for name, weight in self.weights.items()
        }


def _matrix(weight: Float[Tensor, "out *seen"]) -> Float[Tensor, "out all"]:
    """View a weight as a matrix, with columns in memory order; Muon does not depend on the order of columns."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(len(weight), -1)
