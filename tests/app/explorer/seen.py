"""A page that is open, and what a test reads from it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from playwright.sync_api import Page

BOOT = Path(__file__).parents[3] / "examples" / "ankle-boot.png"
#: Samples and seed of the free energies that the page shows of the shipped models: those of a calibration.
QUERY = "free-energy?samples=1&seed=0&per_dimension=true"


@dataclass
class Seen:
    """A page, and what went on behind it."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    #: What the browser's console said of errors, a breach of the Content-Security-Policy among them.
    errors: list[str] = field(default_factory=list)

    def ask(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """The interface itself, past the page."""
        if body is None:
            return httpx2.get(f"{self.address}/{path}", timeout=60, **options)
        return httpx2.post(f"{self.address}/{path}", json=body, timeout=60, **options)

    def number(self, selector: str) -> float:
        found = self.page.get_attribute(selector, "data-value")
        assert found is not None
        return float(found)

    def under_the_glass(self) -> float:
        """Wait for what was put there; its free energy."""
        self.page.wait_for_selector("#under[aria-busy=false] #free-energy")
        return self.number("#free-energy")


#: Opens the page of a service, as a new visitor.
Look = Callable[..., Seen]


def pixels(seen: Seen, selector: str) -> np.ndarray:
    """What a canvas shows, height x width, grey."""
    address = seen.page.eval_on_selector(selector, "canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("L"))


def scored(seen: Seen, inputs: Any) -> float:
    return float(seen.ask(QUERY, {"inputs": inputs}).json()["free_energy"][0])
