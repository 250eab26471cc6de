"""Per-sample refinement of Q: gradient descent on each input's own free energy.

    minimize over (mean, log scale):  F(x; Q) = E_Q[nlog P(x|z)] + KL(Q(z|x), P(z))

The rate is in closed form where the prior has one, else nlog P(z) at the draw minus the entropy of Q.

A few steps of Adam from the encoder's Q fit Q to one input (Kim et al. 2018, arXiv 1802.02550; Cremer et al. 2018,
arXiv 1801.03558). `regret`, the encoder's free energy minus the refined one, measures how badly the encoder's guess
fits (Xiao et al. 2020, arXiv 2003.02977).

Each row has its own moments and number of steps, and every row uses the same draws. So the result of a row does not
depend on the rows beside it. `model.scoring.program.refine` puts the steps together.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from model.likelihoods import Gaussian
from model.scoring.free_energy import free_energy_at
from model.vae import VAE, to_gaussian

#: Learning rate of Adam at the first step, in units of z and of its log scale; falls linearly to zero after the last.
LEARNING_RATE = 0.1
BETAS = (0.9, 0.99)
#: Adam epsilon in nats per unit of z, deliberately large: it shrinks steps of latent dimensions with near-zero
#: gradients, which the usual 1e-8 would scale up to full size.
EPSILON = 1.0
#: Fresh draws on which the refined Q must have a lower free energy than the encoder's.
VALIDATION_DRAWS = 8


def refine_step(
    vae: VAE, x: Tensor, params: Tensor, first: Tensor, second: Tensor, noise: Tensor, step: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`params`, `first` and `second` after a step of Adam per row, from one reparameterized draw.

    `params` holds mean and log scale of Q, `first` and `second` Adam's moments, zero before step 1: batch x 2 latent.
    `step` is the number of this step, `steps` of the last: batch x 1.
    """
    with torch.enable_grad():
        variable = params.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(free_energy_at(vae, x, to_gaussian(variable), noise).sum(), variable)
    first = first.lerp(gradient, 1 - BETAS[0])
    second = second.lerp(gradient.square(), 1 - BETAS[1])
    unbiased = first / (1 - BETAS[0] ** step)
    magnitude = (second / (1 - BETAS[1] ** step)).sqrt() + EPSILON
    learning_rate = LEARNING_RATE * (1 - (step - 1) / steps)
    return params - learning_rate * unbiased / magnitude, first, second


@torch.no_grad()
def compare_q(vae: VAE, x: Tensor, q: Gaussian, refined: Gaussian, noise: Tensor) -> Float[Tensor, "batch"]:
    """Free energy of q minus that of the refined Q, at the same draw of noise: nats, one per row."""
    return free_energy_at(vae, x, q, noise) - free_energy_at(vae, x, refined, noise)


def select_q(q: Gaussian, refined: Gaussian, gain: Float[Tensor, "batch"]) -> Gaussian:
    """The refined Q in rows where it gained something, q in all others.

    >>> q, refined = (Gaussian(torch.full((3, 1), mean), torch.ones(3, 1)) for mean in (0.0, 1.0))
    >>> select_q(q, refined, torch.tensor([2.0, -2.0, torch.nan])).mean.flatten().tolist()
    [1.0, 0.0, 0.0]
    """
    gained = (gain > 0)[:, None]
    return Gaussian(torch.where(gained, refined.mean, q.mean), torch.where(gained, refined.scale, q.scale))
