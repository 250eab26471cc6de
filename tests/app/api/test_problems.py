"""The error tree, and the table that gives each class its status."""

import http
import inspect
import re

from app.api import problems as errors
from app.inference import errors as inference_errors
from model import errors as model_errors


def classes(module: object) -> list[type[Exception]]:
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__  # type: ignore[attr-defined]
    ]


def test_every_class_has_a_status() -> None:
    for kind in (*classes(errors), *classes(inference_errors), *classes(model_errors)):
        if kind in {errors.Refusal, inference_errors.InferenceError}:
            continue
        assert any(base in errors.STATUS for base in kind.__mro__), kind
    for status, title in errors.STATUS.values():
        assert status == 499 or status in http.HTTPStatus._value2member_map_
        assert title


def test_the_tree_is_drawn_with_every_class_and_its_status() -> None:
    assert errors.__doc__ is not None
    for kind in classes(errors):
        if kind is not errors.Refusal:
            assert re.search(rf"── {kind.__name__}\s+{errors.STATUS[kind][0]}", errors.__doc__), kind


def test_the_nearest_ancestor_in_the_table_counts() -> None:
    class Narrow(errors.TooLarge):
        pass

    assert errors.status_of(Narrow("x")) == (413, "Too large")
    assert errors.status_of(model_errors.InputError("x")) == (422, "Invalid request")
    assert errors.status_of(model_errors.DataError("x")) == (500, "Model failed")
