"""Per-sample improvement of Q: gradient descent on each input's own free energy.

    minimize over (mean, log scale):  F(x; Q) = E_Q[nlog P(x|z)] + KL(Q(z|x), P(z))

The encoder's Q is a guess made in one pass for all inputs alike; a few steps of Adam from there fit Q to the one input
(Kim et al. 2018, arXiv 1802.02550; the gap that they close: Cremer et al. 2018, arXiv 1801.03558). What comes out is a
Q like any other, for any estimator in `model.scoring.free_energy`. `regret`, the encoder's free energy minus the
refined one, tells how badly the encoder's guess fits (Xiao et al. 2020, arXiv 2003.02977).

Each row is its own problem with its own moments and its own number of steps, and the same draws serve every row, so
what becomes of a row does not depend on its neighbours.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from model import random
from model.likelihoods import Gaussian
from model.scoring.free_energy import terms
from model.vae import LOG_SCALE_BOUNDS, VAE, to_tensor

#: Of Adam, in units of z and of its log scale; falls in a straight line to zero at the last step.
LEARNING_RATE = 0.1
BETAS = (0.9, 0.99)
#: In nats per unit of z: the steps of dimensions that hardly matter fade out, where plain Adam would make them whole
EPSILON = 1.0
#: Fresh draws on which the refined Q must beat the encoder's.
JUDGES = 8


def start(q: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """The state before the first step: mean and log scale of each row's Q side by side, and Adam's two moments."""
    place = torch.cat([q.mean, q.scale.log()], dim=1)
    return place, torch.zeros_like(place), torch.zeros_like(place)


def finish(place: Float[Tensor, "batch two_latent"]) -> Gaussian:
    """The Q of a state."""
    mean, log_scale = place.chunk(2, dim=1)
    return Gaussian(mean, log_scale.clamp(*LOG_SCALE_BOUNDS).exp())


def descend(
    vae: VAE,
    x: Float[Tensor, "batch *data"],
    place: Float[Tensor, "batch two_latent"],
    first: Float[Tensor, "batch two_latent"],
    second: Float[Tensor, "batch two_latent"],
    draw: Float[Tensor, "batch latent"],
    step: Float[Tensor, "batch 1"],
    steps: Float[Tensor, "batch 1"],
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam for each row, from one reparameterized draw and the analytic rate.

    Args:
        place, first, second: the state, from `start` or the step before.
        draw: standard normal noise.
        step, steps: the number of this step, from 1, and of the last.

    Returns: the state after the step.
    """
    with torch.enable_grad():
        here = place.detach().requires_grad_()
        q = finish(here)
        distortion = vae.decode(q.draw(draw)).nlog_prob(x).flatten(1).sum(1)
        (gradient,) = torch.autograd.grad((distortion + q.rate().sum(1)).sum(), here)
    first = first.lerp(gradient, 1 - BETAS[0])
    second = second.lerp(gradient.square(), 1 - BETAS[1])
    unbiased = first / (1 - BETAS[0] ** step)
    size = (second / (1 - BETAS[1] ** step)).sqrt() + EPSILON
    rate = LEARNING_RATE * (1 - (step - 1) / steps)
    return place - rate * unbiased / size, first, second


def refine(vae: VAE, x: Float[Tensor, "batch *data"], q: Gaussian, *, steps: int, seed: int = 0) -> Gaussian:
    """Improve each row's Q by gradient steps on its own free energy.

    Args:
        x: samples, as many as fit in one call of the decoder.
        q: where to start, the encoder's Q.
        steps: S.
        seed: of the draws, which are apart from those that score.

    Returns: per row the refined Q, or the one given where that has the lower free energy on fresh, shared draws.
    """
    latent, device = vae.config.latent, q.mean.device
    state = start(q)
    draws = to_tensor(random.normal(seed, (steps, latent), random.REFINE), str(device)).to(q.mean.dtype)
    rows = len(x)
    for index, draw in enumerate(draws):
        number, last = (torch.full((rows, 1), float(n), device=device) for n in (index + 1, steps))
        state = descend(vae, x, *state, draw.expand(rows, -1), number, last)
    refined = finish(state[0])
    judges = to_tensor(random.normal(seed, (JUDGES, latent), random.VALIDATE), str(device)).to(q.mean.dtype)
    gain = torch.stack([excess(vae, x, q, refined, judge.expand(rows, -1)) for judge in judges]).sum(0)
    return better(q, refined, gain)


@torch.no_grad()
def excess(
    vae: VAE, x: Float[Tensor, "batch *data"], q: Gaussian, refined: Gaussian, draw: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch"]:
    """How much more q costs than the refined Q at one draw each, nats, one per row; analytic rates."""
    costs = [terms(vae, x, some, draw).distortion + some.rate().sum(1) for some in (q, refined)]
    return costs[0] - costs[1]


def better(q: Gaussian, refined: Gaussian, gain: Float[Tensor, "batch"]) -> Gaussian:
    """Per row the refined Q where it gained something, else q."""
    won = (gain > 0)[:, None]
    return Gaussian(torch.where(won, refined.mean, q.mean), torch.where(won, refined.scale, q.scale))
