"""Choice of the precision of a training by what is faster on this machine."""

import time
from typing import NamedTuple

import numpy as np

from model import random
from model.config import ModelConfig
from model.data import Array
from model.likelihoods import LIKELIHOODS
from model.training.loop import PrecisionName, Training, TrainingSettings

#: Samples in a measured step, and measured steps after one that warms up; the fastest counts.
ROWS, STEPS = 16, 3
#: How many times as fast bfloat16 must be for its rounding to pay.
MIN_SPEEDUP = 1.2


class MeasuredPrecision(NamedTuple):
    """The precision to train in, and how many times as fast as float32 bfloat16 was."""

    name: PrecisionName
    speedup: float

    @classmethod
    def of(cls, config: ModelConfig, settings: TrainingSettings) -> "MeasuredPrecision":
        """Measure some steps of a training in both; they leave nothing behind."""
        speedup = seconds_per_step(config, settings, "float32") / seconds_per_step(config, settings, "bfloat16")
        return cls("bfloat16" if speedup >= MIN_SPEEDUP else "float32", speedup)

    def __str__(self) -> str:
        if self.speedup >= 1:
            return f"{self.name}; a step in bfloat16 is {self.speedup:.1f} times as fast as in float32 here"
        return f"{self.name}; a step in bfloat16 is {1 / self.speedup:.1f} times as slow as in float32 here"


def seconds_per_step(config: ModelConfig, settings: TrainingSettings, precision: PrecisionName) -> float:
    """Seconds of a step on random samples."""
    chosen = settings.model_copy(update={"precision": precision, "batch_size": ROWS, "epochs": 1})
    finished: list[float] = []
    training = Training(config, chosen)
    samples = _samples(config, ROWS * (STEPS + 1))
    for _ in training.epochs(samples, samples[:1], lambda *_: finished.append(time.perf_counter())):
        pass
    return float(np.diff(finished).min())


def _samples(config: ModelConfig, count: int) -> Array:
    """Random samples in the layout of a dataset, which any likelihood of this data takes."""
    draw, shape = random.generator(0, random.OUTLIERS), (count, *config.data.shape)
    if LIKELIHOODS[config.likelihood.name].levels is not None:
        return draw.integers(0, 2, shape, np.uint8) * np.uint8(255)
    return draw.random(shape, np.float32)
