"""The record of one training epoch, shared by runs, galleries and reports."""

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
