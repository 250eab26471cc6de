"""The records of one epoch, shared by runs, galleries and reports."""

from model.data import Finite, Frozen


class EpochRecord(Frozen):
    """One epoch of a training. Scores are means over the held-out samples from one draw each, in nats per sample.

    `train_free_energy` is the mean over the epoch's batches, each at the weights of its step.
    """

    epoch: int
    free_energy: Finite
    distortion: Finite
    rate: Finite
    bits_per_dim: Finite | None
    train_free_energy: Finite
    learning_rate: Finite
    seconds: Finite
    samples_per_second: Finite


class PriorRecord(Frozen):
    """One epoch of the fit of a prior. `cross_entropy` is the mean of nlog P(z) over held-out samples, in nats.

    It is from one draw of Q each; `train_cross_entropy` is that over the epoch's batches, at the weights of their step.
    """

    epoch: int
    cross_entropy: Finite
    train_cross_entropy: Finite
    learning_rate: Finite
    seconds: Finite
    samples_per_second: Finite
