"""Fine-tuning: the networks of a model under its fitted prior, which stays as it is.

The encoder was trained towards N(0, I), and then the flow towards the encoder. A little more training, of encoder and
decoder, moves them towards the flow.
"""

import math

from torch import Tensor

from model.config import ModelConfig
from model.record import EpochRecord
from model.training.fit import Array, Best, FittedEpoch
from model.training.loop import Training, TrainingSettings
from model.vae import VAE

#: Epochs and learning rate of a fine-tuning, as shares of those of the training.
SHARE_OF_EPOCHS, SHARE_OF_LEARNING_RATE = 0.1, 0.15


def tuning_settings(training: TrainingSettings) -> TrainingSettings:
    """The settings of the fine-tuning that follows a training."""
    return training.model_copy(
        update={
            "epochs": max(1, math.ceil(training.epochs * SHARE_OF_EPOCHS)),
            "learning_rate": training.learning_rate * SHARE_OF_LEARNING_RATE,
            "optimizer": "adamw",
            "inference_steps": 1,
        }
    )


class FineTuning(Training):
    """One fine-tuning. `best` are the averaged weights of the epoch with the lowest held-out free energy."""

    remedy = "delete its state, and use --no-fine-tune"

    def __init__(self, config: ModelConfig, settings: TrainingSettings) -> None:
        super().__init__(config, settings)
        self.best = Best(self.average)

    def start_from(self, vae: VAE) -> None:
        """Start from the weights of a model."""
        self.module.load_state_dict(vae.state_dict())
        self.average.load_state_dict(vae.state_dict())

    def _prepare_step(self) -> None:
        super()._prepare_step()
        self.vae.prior.requires_grad_(False)

    def _record(self, validation: Array, epoch: FittedEpoch) -> EpochRecord:
        record = super()._record(validation, epoch)
        self.best.offer(record.free_energy)
        return record

    def state(self) -> dict[str, Tensor]:
        return super().state() | self.best.state()

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self.best.restore(state)

    def tuned(self) -> VAE:
        """The model of the best epoch."""
        vae = VAE(self.vae.config).to(self.settings.device)
        vae.load_state_dict(self.best.weights)
        return vae.eval().requires_grad_(False)
