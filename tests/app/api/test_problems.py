"""Status of every exception, and the class trees in the docstrings."""

import http
import inspect
import json
import re
from types import ModuleType

import pytest
from starlette.exceptions import HTTPException

from app.api import errors
from app.api.problems import STATUS, status_of, to_response
from app.codecs import errors as codec_errors
from app.inference import errors as inference_errors
from model import errors as model_errors

#: Classes that are only raised as one of their subclasses.
BASES = {errors.APIError, codec_errors.CodecError, inference_errors.InferenceError}
MODULES = (errors, codec_errors, inference_errors, model_errors)


def classes(module: ModuleType) -> list[type[Exception]]:
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_exception_has_a_status(module: ModuleType) -> None:
    for kind in set(classes(module)) - BASES:
        assert any(base in STATUS for base in kind.__mro__), kind


def test_every_status_is_an_http_status() -> None:
    standard = {status.value for status in http.HTTPStatus}
    for status, title in STATUS.values():
        assert status == 499 or status in standard
        assert title


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_docstring_tree_holds_every_class(module: ModuleType) -> None:
    assert module.__doc__ is not None
    for kind in classes(module):
        assert re.search(rf"(^|── |    ){kind.__name__}\b", module.__doc__, re.MULTILINE), kind


def test_an_http_exception_of_an_endpoint_keeps_its_status_and_detail() -> None:
    response = to_response("GET", "/here", HTTPException(409, "try another name", {"X-Name": "taken"}))
    assert (response.status_code, response.headers["x-name"]) == (409, "taken")
    assert json.loads(bytes(response.body))["detail"] == "try another name"
    unknown = to_response("GET", "/here", HTTPException(404))
    assert "no route matches /here" in json.loads(bytes(unknown.body))["detail"]


def test_the_nearest_ancestor_in_the_table_counts() -> None:
    class Narrow(codec_errors.TooLarge):
        pass

    assert status_of(Narrow("x")) == (413, "Too large")
    assert status_of(model_errors.InputError("x")) == (422, "Invalid request")
    assert status_of(model_errors.DataError("x")) == (500, "Model failed")
    assert status_of(KeyError("x")) is None
