"""Error classes and the tree in the docstring."""

import re

from model import errors
from model.errors import DataError, InputError, VAEError


def _tree(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(
        *(_tree(below) for below in kind.__subclasses__() if below.__module__ == "model.errors")
    )


def test_the_docstring_tree_holds_every_error() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^ {4}(?:│ {3})?(?:[├└]── )?(\w+)", errors.__doc__, re.MULTILINE)
    defined = [
        name for name, value in vars(errors).items() if getattr(value, "__mro__", ()) and issubclass(value, VAEError)
    ]
    assert sorted(drawn) == sorted(_tree(VAEError)) == sorted(defined)


def test_an_input_error_names_its_place_first() -> None:
    error = InputError("not finite", "inputs[3][0][7]")
    assert (str(error), error.place, error.detail) == ("inputs[3][0][7]: not finite", "inputs[3][0][7]", "not finite")
    assert str(InputError("not finite")) == "not finite"


def test_errors_derive_from_no_standard_error() -> None:
    # A caller that guards against ValueError or OSError must not swallow what was raised on purpose.
    assert DataError.__mro__ == (DataError, VAEError, Exception, BaseException, object)
