"""The lowest allowed version of every direct dependency, in a virtual environment of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lowest import lowest

ROOT = Path(__file__).parents[1]
#: Programs that run the tests, at the versions of constraints.txt.
TOOLS = ("beartype", "httpx2", "hypothesis", "pytest")
#: Fast tests of the service over HTTP, of the codecs, of commands, traces and checkpoints.
TESTS = (
    "tests/app/api/test_latents.py",
    "tests/app/api/test_scores.py",
    "tests/app/codecs",
    "tests/app/cli/test_commands.py",
    "tests/app/observability/test_tracing.py",
    "tests/model/test_checkpoint.py",
)
#: Tests no dependency, and is slow.
IGNORED = "tests/app/codecs/test_fuzz.py"


def run(*command: str | Path, **environment: str) -> None:
    """Run a command, and fail with its output if it fails."""
    process = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-5000:]


def test_every_dependency_has_a_lower_bound() -> None:
    requirements = lowest("train", "otel", "test", "docs")
    assert "uvicorn==0.54" in requirements
    assert all("==" in requirement for requirement in requirements)


@pytest.mark.long
def test_service_works_with_the_lowest_allowed_versions(tmp_path: Path) -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    index = os.environ.get("TORCH_INDEX")
    # torch has no lowest version of its own: it is the tested one.
    run(*install, *(("--index-url", index) if index else ()), f"torch=={pins['torch']}")
    dependencies = [requirement for requirement in lowest("train", "otel") if not requirement.startswith("torch==")]
    run(*install, f"torch=={pins['torch']}", *dependencies, *(f"{tool}=={pins[tool]}" for tool in TOOLS))
    run(*install, "--no-deps", "--editable", str(ROOT))
    options = ("-q", "-x", "-m", "not long", "-p", "no:cacheprovider", f"--ignore={IGNORED}")
    run(python, "-m", "pytest", *options, *TESTS, PYTHONPATH=str(ROOT))
