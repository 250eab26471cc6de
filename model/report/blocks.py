"""The HTML blocks of a report page: the macros of `template.html`, which escape every value that is not `Markup`."""

from collections.abc import Iterable
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


def join(parts: Iterable[Markup]) -> Markup:
    """Concatenate blocks.

    >>> join([block("paragraph", "a"), block("paragraph", "b")])
    Markup('<p>a</p><p>b</p>')
    """
    return Markup("").join(parts)


def page(title: str, lines: Iterable[str], sections: Iterable[tuple[str, str, Markup]], first: Markup) -> str:
    """Render the whole page, with its style inside.

    Args:
        title: the heading.
        lines: lines of text below the heading.
        sections: id, heading and content of each section.
        first: the content above the sections.
    """
    style = Markup((FOLDER / "style.css").read_text())  # noqa: S704 - a file of this package
    return str(block("page", title, list(lines), list(sections), first, style))
