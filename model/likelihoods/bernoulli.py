"""Independent bits: the likelihood of binary data."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.data import Array, Data, ImageData
from model.errors import DataError
from model.likelihoods.base import Distribution, Head, LikelihoodConfig


class BernoulliLikelihood(LikelihoodConfig):
    """Independent bits, by their logits: a probability. Values are rounded to 0 or 1."""

    levels: ClassVar[int | None] = 2

    name: Literal["bernoulli"] = "bernoulli"

    @classmethod
    def default_for(cls, data: Data) -> "BernoulliLikelihood":  # noqa: ARG003
        return cls()

    def head(self, data: Data) -> "BernoulliHead":  # noqa: ARG002
        return BernoulliHead()

    def require_samples(self, data: Data, training: Array, others: Sequence[Array]) -> None:
        if isinstance(data, ImageData):
            if training.dtype == np.uint8 and training.max() <= 1:
                raise DataError("likelihood 'bernoulli' reads bytes from 128 on as ones; multiply these by 255")
        elif not all(np.isin(part, (0, 1)).all() for part in (training, *others)):
            raise DataError("likelihood 'bernoulli' needs columns of 0 and 1 only; use 'gaussian'")


class Bernoulli(Distribution):
    """Bits with P(1) = sigmoid(logits). x is rounded to the nearest bit."""

    def __init__(self, logits: Float[Tensor, "batch *data"]) -> None:
        self.logits = logits

    @property
    def mean(self) -> Float[Tensor, "batch *data"]:
        return self.logits.sigmoid()

    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """softplus(-logit) for a one, softplus(logit) for a zero, in nats per dimension."""
        return F.softplus(torch.where(x >= 0.5, -self.logits, self.logits))

    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        return (uniform < self.mean).to(uniform.dtype)


class BernoulliHead(Head):
    """One number per dimension, the logit."""

    params = 1

    def forward(self, raw: Float[Tensor, "batch 1 *data"]) -> Bernoulli:
        return Bernoulli(raw.squeeze(1))
