"""The example of CONTRIBUTING works, and the checks before a commit are those of `make lint`."""

import re
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from fastapi import APIRouter

from app.api import latents, routers, schemas
from model.checkpoint import Checkpoint
from tests.support.requests import inputs, npy
from tests.support.services import Transport, client_of

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_a_call_works(
    loaded: Callable[[str], Checkpoint], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemas_block, endpoint_block = BLOCKS
    defined: dict[str, typing.Any] = vars(schemas).copy()
    exec(schemas_block, defined)
    router = APIRouter(tags=["model"])
    for name in ("EntropyParams", "Entropies"):
        monkeypatch.setattr(schemas, name, defined[name], raising=False)
    names = {**vars(latents), "router": router}
    exec(endpoint_block, names)
    monkeypatch.setattr(routers, "ROUTERS", (*routers.ROUTERS, (router, "user")))
    name = "grey-mlp-discretized"
    with client_of(loaded(name), transport) as client:
        body = npy(inputs(name, 3))
        variance = np.array(client.post("/encode", **body).json()["variance"])
        entropy = client.post("/entropy", **body)
        assert entropy.status_code == 200, entropy.text
        expected = 0.5 * np.log(2 * np.pi * np.e * variance).sum(1)
        np.testing.assert_allclose(entropy.json()["entropy"], expected, rtol=1e-5)
        assert client.post("/entropy?unknown=1", **body).status_code == 422
        assert "requestBody" in client.get("/openapi.json").json()["paths"]["/entropy"]["post"]
        assert 'route="/entropy"' in client.get("/metrics").text


def test_commits_are_checked_by_what_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(VENV)", ".venv") for line in recipe[1].splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook["entry"] for hook in config["repos"][0]["hooks"]] == commands


def test_continuous_integration_runs_the_two_targets() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert commands[-2:] == ["make test", "make test-long"]
