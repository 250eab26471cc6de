"""The HTML blocks of a report page: the macros of `template.html`, which escape every value that is not `Markup`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
_TEMPLATE = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
).get_template("template.html")


def block(name: str, *values: Any) -> Markup:
    """Render one macro of the template.

    >>> block("paragraph", "a < b")
    Markup('<p>a &lt; b</p>')
    """
    return Markup(getattr(_TEMPLATE.module, name)(*values))  # noqa: S704 - the template has escaped the values


def render_page(
    title: str,
    lines: Sequence[str],
    tiles: Sequence[tuple[str, str]],
    warnings: Sequence[tuple[str, str, str]],
    sections: Sequence[tuple[str, str, Markup]],
) -> str:
    """Render the whole page, with its style inside.

    Args:
        title: the heading.
        lines: lines of text below the heading.
        tiles: name and value of each main figure.
        warnings: code, title and text of each warning.
        sections: id, heading and content of each section.
    """
    style = Markup((FOLDER / "style.css").read_text())  # noqa: S704 - a file of this package
    return str(block("page", title, lines, tiles, warnings, sections, style))
