"""Likelihoods P(x|z): Gaussian, discretized logistic mixture with or without autoregression, Bernoulli.

Each module holds one likelihood as three classes. The *configuration* has the settings and the traits. The
*distribution* has a mean, `nlog_prob(x)` and `sample(uniform)`. The *head* turns decoder output, `params` numbers per
dimension of x, into that distribution.

`LIKELIHOODS` is the one table of names. To add a likelihood, write one module and add one row. No other module names
a likelihood; the rest of the program asks for traits (see `LikelihoodConfig`).

Noise is an argument: `sample` maps uniform numbers in (0, 1), one per dimension, to a draw. A draw depends on its
noise alone.
"""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from model.likelihoods.base import Distribution, Head, LikelihoodConfig
from model.likelihoods.bernoulli import BernoulliLikelihood
from model.likelihoods.discretized import DiscretizedLikelihood
from model.likelihoods.gaussian import Gaussian, GaussianLikelihood

LIKELIHOODS: dict[str, type[LikelihoodConfig]] = {
    "gaussian": GaussianLikelihood,
    "discretized": DiscretizedLikelihood,
    "bernoulli": BernoulliLikelihood,
}

if TYPE_CHECKING:
    Likelihood = LikelihoodConfig
else:
    # The union comes from the table, so that a new row needs no second edit.
    Likelihood = Annotated[Union[tuple(LIKELIHOODS.values())], Field(discriminator="name")]  # noqa: UP007

__all__ = ["LIKELIHOODS", "Distribution", "Gaussian", "Head", "Likelihood", "LikelihoodConfig"]
