"""The documentation: links and anchors point to something, and the site contains every page."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml  # type: ignore[import-untyped]
from fastapi.routing import APIRoute

from app.api.routers import ROUTERS
from app.cli.train import train
from app.observability.metrics import Metrics
from model.datasets import READERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MODULE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and mkdocs derive them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_exist(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        if DOCS in page.parents:
            assert target.is_relative_to(DOCS), f"{link} leads out of the site"


def test_navigation_lists_every_page() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for child in (node if isinstance(node, list) else node.values()) for page in pages(child)]  # type: ignore[attr-defined]

    assert sorted(pages(config["nav"])) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_reference_names_existing_modules() -> None:
    for page in DOCS.glob("api/*.md"):
        for name in MODULE.findall(page.read_text()):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name


def test_every_call_and_metric_is_in_its_table() -> None:
    calls, metrics = (DOCS / "interface.md").read_text(), (DOCS / "operations.md").read_text()
    for router, _ in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            assert f"{min(route.methods or ())} {route.path}`" in calls, route.path
    for family in Metrics().registry.collect():
        assert f"`{family.name}{'_total' if family.type == 'counter' else ''}`" in metrics, family.name


def test_every_data_format_is_documented() -> None:
    argument = get_type_hints(train, include_extras=True)["data"].__metadata__[0]
    for text in ((DOCS / "training.md").read_text(), argument.help):
        for suffix in READERS:
            assert suffix in text, suffix


@pytest.mark.long
def test_site_builds_without_a_warning_and_needs_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page.read_text()), page
