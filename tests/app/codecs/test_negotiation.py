"""Choice of a response format."""

import pytest

from app.codecs.errors import NotAcceptable
from app.codecs.negotiation import choose

ALL = ("json", "npz", "png")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("application/x-npz", "npz"),
        ("image/png", "png"),
        ("image/*", "png"),
        ("application/*", "json"),
        ("image/png;q=0.5, application/x-npz;q=0.9", "npz"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "json"),
        ("application/json;q=0, */*", "npz"),
        ("IMAGE/PNG", "png"),
        ("application/json;q=0.1, image/png;q=0.1", "json"),
        ("application/json; q=oops, image/png;q=0.1", "png"),
    ],
)
def test_the_format_of_the_highest_quality_is_chosen_and_the_default_on_ties(accept: str, expected: str) -> None:
    assert choose(accept, None, ALL) == expected


def test_the_format_parameter_overrides_accept() -> None:
    assert choose("application/json", "png", ALL) == "png"


@pytest.mark.parametrize(
    ("accept", "requested"), [("text/html", None), ("image/png", None), ("*/*;q=0", None), ("", "png")]
)
def test_an_error_lists_the_available_formats(accept: str, requested: str | None) -> None:
    with pytest.raises(NotAcceptable, match=r"available: (json|application/json), "):
        choose(accept, requested, ("json", "npz"))
