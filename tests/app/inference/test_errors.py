"""Errors of inference: the tree in the docstring, and the time to retry after."""

import inspect
import math
import re

import pytest

from app.inference import errors
from app.inference.errors import InferenceError, QueueFull


def test_the_docstring_draws_every_class_of_the_tree() -> None:
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, InferenceError)}
    assert errors.__doc__ is not None
    assert set(re.findall(r"── (\w+)", errors.__doc__)) == classes - {"InferenceError"}


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.0, 1), (1.2, 2), (60.0, 60), (math.inf, 60)])
def test_retry_after_is_a_whole_number_of_seconds_up_to_a_minute(seconds: float, retry_after: int) -> None:
    error = QueueFull("queue_rows", "9 rows are queued", seconds)
    assert error.retry_after == retry_after
    assert str(error) == f"queue full: 9 rows are queued; retry after {retry_after} s"
