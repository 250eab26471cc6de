"""An open page and what tests read from it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page

BOOT = Path(__file__).parents[3] / "examples" / "ankle-boot.png"
#: Scores as the page requests them for the shipped models: with the draws and seed of a calibration.
QUERY = "free-energy?samples=1&seed=0&per_dimension=true"


@dataclass
class Seen:
    """An open page with its requests and errors."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    #: Errors of the browser's console, violations of the Content-Security-Policy included.
    errors: list[str] = field(default_factory=list)

    def ask(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """Call the service directly."""
        if body is None:
            return httpx2.get(f"{self.address}/{path}", timeout=60, **options)
        return httpx2.post(f"{self.address}/{path}", json=body, timeout=60, **options)

    def number(self, selector: str) -> float:
        value = self.page.get_attribute(selector, "data-value")
        assert value is not None
        return float(value)

    def inspected(self) -> float:
        """Wait for the inspector and return the free energy that it shows, in nats."""
        self.page.wait_for_selector("#inspection[aria-busy=false] #free-energy")
        return self.number("#free-energy")


#: A function that opens the page of a service as a new visitor.
Look = Callable[..., Seen]


def pixels(seen: Seen, selector: str) -> np.ndarray:
    """The pixels of a canvas in grey, height x width."""
    address = seen.page.eval_on_selector(selector, "canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("L"))


def scored(seen: Seen, inputs: Any) -> float:
    return float(seen.ask(QUERY, {"inputs": inputs}).json()["free_energy"][0])


def assert_accessible(seen: Seen) -> None:
    """Fail on what axe finds wrong with the page as it is now."""
    violations = Axe().run(seen.page).response["violations"]
    assert not violations, [(rule["id"], [node["html"] for node in rule["nodes"]][:3]) for rule in violations]
