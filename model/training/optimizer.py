"""The optimizer of a training: AdamW for all weights, or Muon for the matrices among them and AdamW for the rest.

Muon takes steps of equal size in all directions of a weight matrix (Jordan et al. 2024; scaled to the size of AdamW's
steps as in Liu et al. 2025, arXiv 2502.16982), so that both share one learning rate and one weight decay.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Optimizer:
    """Descends on the gradients of a module's weights.

    For Muon a convolution's weight is the matrix of its output channels by all that each of them sees.
    """

    def __init__(
        self, module: nn.Module, *, name: Literal["adamw", "muon"], learning_rate: float, weight_decay: float
    ) -> None:
        self.weights = dict(module.named_parameters())
        # Matrices share memory with the weights, so that a step of theirs is a step of the weights.
        self.matrices = (
            {key: _matrix(weight.detach()) for key, weight in self.weights.items() if _is_matrix(key, weight)}
            if name == "muon"
            else {}
        )
        others = [weight for name, weight in self.weights.items() if name not in self.matrices]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        ]
        if self.matrices:
            self.parts.append(
                torch.optim.Muon(
                    list(self.matrices.values()),
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, learning_rate: float) -> None:
        """One step on the gradients that the weights hold, which it forgets."""
        for name, matrix in self.matrices.items():
            gradient = self.weights[name].grad
            matrix.grad = None if gradient is None else _matrix(gradient)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
        for weight in (*self.weights.values(), *self.matrices.values()):
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments of all weights, named by the weight and the moment."""
        return {
            f"{name}.{moment}": value
            for name, (part, weight) in self._places().items()
            for moment, value in part.state[weight].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`, which is copied.

        Raises:
            KeyError: a moment is missing, unknown, or of another shape.
        """
        kept: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        for key, value in state.items():
            name, _, moment = key.rpartition(".")
            kept[name][moment] = value.clone()
        for name, (part, weight) in self._places().items():
            expected = {"step", "exp_avg", "exp_avg_sq"} if isinstance(part, torch.optim.AdamW) else {"momentum_buffer"}
            # A weight that has not stepped yet has no moments.
            if kept[name] and kept[name].keys() != expected:
                raise KeyError(f"moments of {name}")
            if any(value.shape != (() if m == "step" else weight.shape) for m, value in kept[name].items()):
                raise KeyError(f"moments of {name}")
            if kept[name]:
                # Fused steps go by the order in memory, which must be that of the weight.
                part.state[weight] = {
                    moment: value if moment == "step" else torch.empty_like(weight).copy_(value)
                    for moment, value in kept[name].items()
                }

    def _places(self) -> dict[str, tuple[torch.optim.Optimizer, Tensor]]:
        """The optimizer of each weight, and the tensor that it keeps moments for."""
        return {
            name: (self.parts[1], self.matrices[name]) if name in self.matrices else (self.parts[0], weight)
            for name, weight in self.weights.items()
        }


#: The layers between feature maps and latents: so large that to make their steps even costs as much as all else.
JOINTS = ("encoder.out.weight", "decoder.inner.weight")


def _is_matrix(key: str, weight: Tensor) -> bool:
    """Whether Muon steps this weight: a matrix of a network, neither a joint nor a parameter of the likelihood."""
    return weight.ndim >= 2 and key not in JOINTS and not key.startswith("head.")


def _matrix(weight: Float[Tensor, "out *seen"]) -> Float[Tensor, "out all"]:
    """The weight as a matrix, in the order that it has in memory: the columns of a matrix have no order for Muon."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(len(weight), -1)
