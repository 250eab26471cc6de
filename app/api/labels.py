"""Names of labels in requests."""

from app.api.state import ServedModel
from app.codecs.errors import Invalid


def require_labels(model: ServedModel, place: str) -> tuple[str, ...]:
    """The names of the labels that the model distinguishes.

    Raises:
        Invalid: it distinguishes none.
    """
    if not model.labels:
        raise Invalid.at(place, "this model distinguishes no labels; leave it out")
    return model.labels


def label_index(model: ServedModel, name: str, place: str) -> int:
    """The index of a label.

    Raises:
        Invalid: the model has no label of this name; it lists those that it has.
    """
    names = require_labels(model, place)
    if name not in names:
        raise Invalid.at(place, f"is '{name:.60}'; the labels are {', '.join(map(repr, names))}")
    return names.index(name)
