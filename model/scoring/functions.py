"""Model functions of tensors, batch first. Row i of every output depends on row i of the inputs alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from model.data import Array
from model.likelihoods import Gaussian
from model.prior import FlowPrior, StandardPrior
from model.scoring.calibration import Calibration, ScoringConfig
from model.scoring.complexity import complexity
from model.scoring.free_energy import log_weight_terms, weight_terms
from model.scoring.refine import compare_q, refine_step
from model.scoring.typicality import TypicalityFeatures, TypicalityModel, residual
from model.vae import VAE, to_gaussian

Arrays = tuple[Array, ...]
#: A model function of arrays: batch first, as many rows out as in.
Call = Callable[..., Arrays]
#: A model function of tensors, which takes the model first.
Function = Callable[..., tuple[Tensor, ...]]
Mode = Callable[[], AbstractContextManager[Any]]


def encode(vae: VAE, x: Float[Tensor, "batch *data"]) -> tuple[Tensor, ...]:
    """Mean, variance and scale of Q(z|x), batch x latent; its rate in nats, one per row, if there is a closed form."""
    q = vae.encode(x)
    columns = (q.mean, q.scale.square(), q.scale)
    return (*columns, vae.prior.rate(q, q.mean)) if vae.prior.analytic_rate else columns


def place(vae: VAE, epsilon: Float[Tensor, "batch latent"], labels: Tensor) -> tuple[Tensor, ...]:
    """u of epsilon ~ N(0, I) and the index of the label of each row, by the prior."""
    return (vae.prior.place(epsilon, labels.cpu().numpy()),)


def to_latent(vae: VAE, u: Float[Tensor, "batch latent"]) -> tuple[Tensor, ...]:
    """z of u, by the prior."""
    return (vae.prior.to_latent(u),)


def to_base(vae: VAE, z: Float[Tensor, "batch latent"]) -> tuple[Tensor, ...]:
    """u of z, by the prior."""
    return (vae.prior.to_base(z),)


def decode(vae: VAE, z: Float[Tensor, "batch latent"]) -> tuple[Tensor, ...]:
    """The mean of P(x|z)."""
    return (vae.decode(z).mean,)


def draw(vae: VAE, z: Float[Tensor, "batch latent"], uniform: Float[Tensor, "batch *data"]) -> tuple[Tensor, ...]:
    """A draw of P(x|z) from uniform noise."""
    return (vae.decode(z).sample(uniform),)


def score(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """Distortion, cross-entropy and minus log Q at one draw of Q per row; nats, float64."""
    return score_per_dimension(vae, x, mean, scale, noise)[:3]


def score_per_dimension(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """As `score`, followed by the terms of distortion, batch x data."""
    return log_weight_terms(vae, x, Gaussian(mean, scale), noise)


def score_given(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """As `score`, followed by nlog P(z|label) of every label, batch x labels; the prior must have labels."""
    assert isinstance(vae.prior, FlowPrior) and vae.prior.base is not None
    q = Gaussian(mean, scale)
    z = q.draw(noise)
    given = vae.prior.nlog_prob_given(z)
    terms = weight_terms(vae, x, q, z, vae.prior.base.mix(given))
    return (*terms[:3], given)


def compare(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, params: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """How much more Q costs than the Q of `params` at one draw each, in nats, one per row."""
    return (compare_q(vae, x, Gaussian(mean, scale), to_gaussian(params), noise),)


def typicality_features(vae: VAE, x: Tensor, mean: Tensor, scale: Tensor, decoded: Tensor) -> tuple[Tensor, ...]:
    """The columns of `TypicalityFeatures` that are no scores, given the decoding of each mean.

    The last, nlog P(z) at the mean, only under a flow prior.
    """
    kl_to_normal = Gaussian(mean, scale).kl_to_normal().sum(1)
    columns = (mean, scale.norm(dim=1), kl_to_normal, residual(vae, x, decoded), complexity(x, vae.config.data))
    return columns if isinstance(vae.prior, StandardPrior) else (*columns, vae.prior.nlog_prob(mean))


def torch_call(function: Function, vae: VAE, mode: Mode = torch.inference_mode) -> Call:
    """A function of tensors as one of arrays, computed on the model's device."""
    device = vae.device

    def tensor(array: Array) -> Tensor:
        # torch warns of arrays that it may not write to, such as broadcast draws.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)

    def call(*arrays: Array) -> Arrays:
        with mode():
            return tuple(output.cpu().numpy() for output in function(vae, *map(tensor, arrays)))

    return call


def features_call(vae: VAE, decode: Call) -> Call:
    """`typicality_features` of inputs, mean and scale of the encoder's Q, by this function to decode."""
    measure = torch_call(typicality_features, vae)
    return lambda x, mean, scale: measure(x, mean, scale, *decode(mean))


def typicality_call(model: TypicalityModel, features: Call) -> Call:
    """Typicality of inputs, mean and scale of the encoder's Q, distortion, free energy, and regret if Q is refined."""

    def call(x: Array, mean: Array, scale: Array, *scores: Array) -> Arrays:
        return (model.score(TypicalityFeatures.of(features(x, mean, scale), *scores)),)

    return call


def typicality_name(scoring: ScoringConfig) -> str:
    """The name of the typicality function for scores made this way."""
    return f"typicality, {scoring}"


def typicality_calls(calibration: Calibration | None, features: Call) -> dict[ScoringConfig, Call]:
    """The typicality function of each configuration that has a typicality model."""
    references = calibration.references if calibration else {}
    models = {scoring: reference.typicality_model for scoring, reference in references.items()}
    return {scoring: typicality_call(model, features) for scoring, model in models.items() if model}


def torch_calls(vae: VAE, calibration: Calibration | None = None) -> dict[str, Call]:
    """Every function that a program of `model.scoring.program` names, computed by torch."""
    features = features_call(vae, torch_call(decode, vae))
    functions: dict[str, Function] = {
        "posterior": encode,
        "score": score,
        "map": score_per_dimension,
        **({"score_given": score_given} if vae.prior.labels else {}),
        "descend": refine_step,
        "judge": compare,
    }
    # Not inference mode: refinement takes gradients.
    calls = {name: torch_call(function, vae, torch.no_grad) for name, function in functions.items()}
    typicality = {typicality_name(scoring): call for scoring, call in typicality_calls(calibration, features).items()}
    return {**calls, "typicality_features": features, **typicality}


def discrete_dims(vae: VAE) -> int | None:
    """The number of dimensions of x where x is discrete, so that free energy is a code length; else None."""
    return vae.config.data.dims if vae.levels else None
