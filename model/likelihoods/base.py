"""Base classes of likelihoods: the configuration with its traits, the distribution, and the head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from model.data import Array, Data, Frozen

#: Step of a float32 uniform number. Uniforms are clamped this far from 0 and 1, so that no quantile is infinite.
UNIFORM_STEP = 2.0**-24


class Distribution(ABC):
    """A distribution over x, given the parameters it holds: a product of one factor per dimension of x."""

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "batch *data"]:
        """The mean, in the units of x."""

    @abstractmethod
    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Minus log P (or density) of each dimension of x, given those before it where they depend; nats."""

    @abstractmethod
    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Draw x from one uniform number in (0, 1) per dimension."""

    def auxiliary_nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"] | None:
        """Nats per dimension that training may add to its loss; None if this distribution has no auxiliary loss."""
        del x
        return None


class Head(nn.Module, ABC):
    """A module that turns decoder output, `params` numbers per dimension of x, into a distribution over x."""

    params: int

    @abstractmethod
    def forward(self, raw: Float[Tensor, "batch params *data"]) -> Distribution:
        """The distribution with these raw parameters."""

    def scales_at_floor(self, p: Any) -> float | None:
        """Fraction of the scales of `p`, a result of `forward`, within a tenth of their floor; None without scales."""


class LikelihoodConfig(Frozen, ABC):
    """Configuration of one likelihood, and the traits by which the rest of the program treats it."""

    #: Number of values that one dimension of x can take; None if x is real and its free energy is that of a density.
    levels: ClassVar[int | None] = None
    #: True if ONNX Runtime computes `nlog_prob` as exactly as torch does.
    onnx_exact: ClassVar[bool] = True

    name: str

    @property
    def is_bytes(self) -> bool:
        """True if each dimension of x is one byte, so that free energy compares with lossless compression."""
        return self.levels == 256

    @property
    def has_auxiliary_loss(self) -> bool:
        """True if distributions of this configuration have an `auxiliary_nlog_prob`."""
        return False

    @classmethod
    @abstractmethod
    def default_for(cls, data: Data) -> "LikelihoodConfig":
        """The configuration that training uses for this data unless told otherwise."""

    @classmethod
    def is_default_for(cls, samples: Array) -> bool:  # noqa: ARG003
        """True if this is the default likelihood of samples like these, of which only the dtype counts."""
        return False

    @abstractmethod
    def head(self, data: Data) -> Head:
        """Build the head for this data."""

    def require_data(self, data: Data) -> None:
        """Raise `ValueError`, naming the remedy, if the likelihood cannot describe this kind of data."""

    def require_samples(self, data: Data, training: Array, others: Sequence[Array]) -> None:
        """Raise `DataError`, naming the remedy, if samples hold values that the likelihood cannot describe."""
