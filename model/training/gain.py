"""The gain of a change of a model, on samples that it has not seen."""

import math
from typing import NamedTuple

from model.data import Floats

#: A change is kept if its gain is more than this many standard errors.
MIN_GAIN_ERRORS = 2.0


class Gain(NamedTuple):
    """Mean nats that a change saves on held-out samples, and their standard error."""

    nats: float
    error: float

    @classmethod
    def of(cls, before: Floats, after: Floats) -> "Gain":
        """From the nats of each sample. The samples must neither have fitted the change nor chosen its epoch."""
        saved = before - after
        return cls(float(saved.mean()), float(saved.std(ddof=1) / math.sqrt(len(saved))))

    @property
    def clear(self) -> bool:
        """True if the gain is more than chance."""
        return self.nats > MIN_GAIN_ERRORS * self.error

    def __str__(self) -> str:
        return f"{self.nats:.2f} nats (standard error {self.error:.2f})"
