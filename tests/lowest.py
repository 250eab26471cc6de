"""Print the lowest allowed version of each direct dependency: `python tests/lowest.py [extra ...]`."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest(*extras: str) -> list[str]:
    """Return `name==lower bound` for the dependencies of pyproject.toml and those of the extras.

    A marker after the semicolon is kept. A requirement on this package itself, as `vae-server[train]`, is left out.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return [_pinned(requirement) for requirement in requirements if not requirement.startswith(project["name"])]


def _pinned(requirement: str) -> str:
    """`name>=1.2,<2; marker` -> `name==1.2; marker`."""
    specification, separator, marker = requirement.partition(";")
    match = re.fullmatch(r"([\w.-]+(?:\[[\w,-]+\])?)>=([\w.]+)(?:,<[\w.]+)?", specification.strip())
    if match is None:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound; write name>=version")
    return f"{match[1]}=={match[2]}{separator}{marker}"


if __name__ == "__main__":
    print(*lowest(*sys.argv[1:]), sep="\n")
