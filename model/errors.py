"""Everything that can go wrong in `model`, as one tree.

    VAEError
    ├── ConfigError        a description of a model, or of a training, that cannot be built
    ├── InputError         an array that does not fit the model
    ├── DataError          data on disk that cannot be read
    ├── CheckpointError    a model folder that cannot be saved or loaded
    │   └── CalibrationError   for its calibration alone
    └── TrainingError      a training that cannot start, go on or be resumed

Every message names the place (a file, a row, a key and its value) and the remedy.
"""


class VAEError(Exception):
    """The root: catch this to catch all that this package raises on purpose."""


class ConfigError(VAEError):
    """A description of a model, or of a training, that cannot be built."""


class InputError(VAEError):
    """An array that does not fit the model; `place` names where, as in `inputs[3][0][7]`."""

    def __init__(self, detail: str, place: str = "") -> None:
        super().__init__(f"{place}: {detail}" if place else detail)
        self.detail = detail
        self.place = place


class DataError(VAEError):
    """Data on disk that cannot be read, or that no model can be trained on."""


class CheckpointError(VAEError):
    """A model folder that is missing, incomplete, altered, or cannot be written."""


class CalibrationError(CheckpointError):
    """The calibration in a model folder is not one of this version and this model; the model itself is sound."""


class TrainingError(VAEError):
    """A training that cannot start, go on, or be resumed."""
