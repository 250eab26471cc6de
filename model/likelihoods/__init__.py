"""Likelihoods P(x|z): Gaussian, discretized logistic mixture with or without autoregression, Bernoulli.

Each module holds one likelihood as three classes (see `model.likelihoods.base`): the configuration, the distribution
and the head. To add a likelihood, write one module and add one row to `LIKELIHOODS`. The rest of the program asks for
traits, never for the name of a likelihood.
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
