"""All exceptions of `model`, as one tree.

    VAEError
    ├── ConfigError        a description of a model or of a training that cannot be built
    ├── InputError         an array that does not fit the model
    ├── DataError          data on disk that cannot be read
    ├── CheckpointError    a model folder that cannot be saved or loaded
    │   └── CalibrationError   a calibration that does not fit its model
    └── TrainingError      a training that cannot start, continue or be resumed

Every message names the location (a file, a row, a key and its value) and the remedy.
"""

from pydantic import ValidationError


class VAEError(Exception):
    """The root of the tree: catch it to catch every error that this package raises on purpose."""


class ConfigError(VAEError):
    """A description of a model or of a training that cannot be built."""


class InputError(VAEError):
    """An array that does not fit the model. `place` names the value, as in `inputs[3][0][7]`."""

    def __init__(self, detail: str, place: str = "") -> None:
        super().__init__(f"{place}: {detail}" if place else detail)
        self.detail = detail
        self.place = place


class DataError(VAEError):
    """Data on disk that cannot be read, or that no model can be trained on."""


class CheckpointError(VAEError):
    """A model folder that is missing, incomplete, altered, or cannot be written."""


class CalibrationError(CheckpointError):
    """A calibration that is not one of this version and this model. The model itself is sound."""


class TrainingError(VAEError):
    """A training that cannot start, continue, or be resumed."""


def explain(error: ValidationError) -> str:
    """Format a pydantic error as one line: each invalid key, the problem, and the given value."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        given = "" if item["type"] in {"missing", "value_error"} else f" (given: {item['input']!r:.80})"
        parts.append((f"{key}: " if key else "") + item["msg"].removeprefix("Value error, ") + given)
    return "; ".join(parts)
