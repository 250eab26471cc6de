"""The page as a whole, in a real browser: what it asks for, who can use it, with keys, limits and other data."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from playwright.sync_api import Route, expect

from model import checkpoint
from model.config import ModelConfig
from model.vae import VAE
from tests.app.explorer.seen import BOOT, QUERY, Look, assert_accessible

SCREENSHOTS = BOOT.parents[1] / ".screenshots"
TABS = ("map", "sliders", "samples", "card")


def test_it_calls_no_other_host_and_keeps_its_content_security_policy(look: Look) -> None:
    seen = look()
    for tab in TABS:
        seen.page.click(f"#tab-{tab}")
    seen.page.wait_for_selector(".grid button", state="attached")
    assert {urlsplit(url).netloc for url in seen.requests if not url.startswith("blob:")} == {
        urlsplit(seen.address).netloc
    }
    assert not seen.errors
    policy = seen.ask("").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_it_is_small_without_thumbnails(look: Look) -> None:
    seen = look()
    own = {url for url in seen.requests if "format=png" not in url and not url.startswith("blob:")}
    gets = [url for url in own if not url.endswith(("reconstruct?inputs=true", "encode")) and "free-energy" not in url]
    size = sum(len(seen.ask(url.removeprefix(f"{seen.address}/")).content) for url in gets)
    assert size < 500_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1500])
def test_it_is_accessible_and_fits_the_window(
    scheme: str, width: int, look: Look, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = look(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    seen.inspected()
    for tab in TABS:
        seen.page.click(f"#tab-{tab}")
        seen.page.wait_for_timeout(300)
        # For review by eye.
        seen.page.screenshot(path=SCREENSHOTS / f"{tab}-{scheme}-{width}.png", full_page=True)
        assert_accessible(seen)
        # No horizontal scrolling.
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_below_a_path_prefix_that_a_proxy_strips(look: Look) -> None:
    def without(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/vae/", "/")))

    seen = look(at="health/live", ready=False)
    outside: list[str] = []

    def refuse(route: Route) -> None:
        outside.append(route.request.url)
        route.abort()

    seen.page.route("**/*", refuse)
    seen.page.route(f"{seen.address}/vae/**", without)
    seen.page.goto(f"{seen.address}/vae/")
    seen.inspected()
    seen.page.click("text=API docs")
    seen.page.click("#operations-model-sample")
    seen.page.click("text=Try it out")
    seen.page.click("text=Execute")
    seen.page.wait_for_selector(".live-responses-table .response >> text=200")
    assert f"{seen.address}/vae/sample" in seen.page.inner_text(".request-url")
    assert not outside


@pytest.mark.parametrize("at", ["/vae", "/vae/"])
def test_below_a_path_prefix_that_a_proxy_keeps(look: Look, at: str) -> None:
    seen = look(at="health/live", ready=False, environment={"VAE_ROOT_PATH": "/vae"})
    outside: list[str] = []

    def refuse(route: Route) -> None:
        outside.append(route.request.url)
        route.abort()

    seen.page.route(lambda url: urlsplit(url).path != "/vae" and "/vae/" not in url, refuse)
    seen.page.goto(f"{seen.address}{at}")
    seen.inspected()
    seen.page.click("text=API docs")
    seen.page.click("#operations-model-sample")
    seen.page.click("text=Try it out")
    seen.page.click("text=Execute")
    seen.page.wait_for_selector(".live-responses-table .response >> text=200")
    assert f"{seen.address}/vae/sample" in seen.page.inner_text(".request-url")
    assert not outside


def test_tabs_by_keyboard(look: Look) -> None:
    seen = look()
    seen.page.focus("#tab-map")
    seen.page.keyboard.press("ArrowRight")
    assert seen.page.get_attribute("#tab-sliders", "aria-selected") == "true"
    assert seen.page.is_visible("#sliders") and not seen.page.is_visible("#map")
    seen.page.keyboard.press("ArrowLeft")
    seen.page.keyboard.press("ArrowLeft")
    assert seen.page.get_attribute("#tab-card", "aria-selected") == "true"


KEYS = {"VAE_API_KEYS": "a-key-for-users-1234", "VAE_ADMIN_KEYS": "a-key-for-the-boss-5678"}


def test_it_asks_for_a_key_and_does_not_store_it(look: Look) -> None:
    seen = look(ready=False, environment=KEYS)
    seen.page.wait_for_selector("dialog[open]")
    assert "needs a key" in seen.page.inner_text("#key-reason")
    seen.page.fill("#key-value", "a-key-that-is-not-one")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("dialog[open] >> text=the key is not valid")
    seen.page.fill("#key-value", KEYS["VAE_API_KEYS"])
    seen.page.click("text=Use key")
    seen.page.wait_for_selector("body[data-ready]")
    seen.inspected()
    seen.page.click("#tab-card")
    seen.page.wait_for_selector("#card >> text=shown to administrators")
    stored = seen.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert "a-key" not in stored
    seen.page.reload()
    seen.page.wait_for_selector("dialog[open]")
    seen.page.click("dialog >> text=Cancel")
    seen.page.wait_for_selector("#alerts >> text=needs a key")


def test_large_images_and_small_limits(look: Look, tmp_path: Path) -> None:
    """An image with more pixels than a JavaScript call may have arguments; limits below the usual rows and draws."""
    config = ModelConfig.model_validate(
        {
            "data": {"kind": "image", "height": 400, "width": 400, "channels": 1},
            "latent": 2,
            "network": {"name": "mlp", "hidden": [2]},
            "likelihood": {"name": "gaussian"},
        }
    )
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "large", VAE(config), checkpoint.Card(name="large", created="2026-01-01"))
    limits = {"VAE_MAX_ROWS": "8", "VAE_MAX_SAMPLES": "2"}
    seen = look(tmp_path / "large", at="#samples", environment=limits)
    expect(seen.page.locator(".grid button")).to_have_count(8)
    seen.page.click(".grid button >> nth=3")
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=sample 4 of seed 0")
    answer = seen.ask("sample?n=8").json()["outputs"][3]
    path = "free-energy?samples=2&seed=0&per_dimension=true"
    expected = seen.ask(path, {"inputs": [answer]}).json()["free_energy"][0]
    assert seen.inspected() == pytest.approx(expected, rel=1e-6)
    seen.page.click("#tab-sliders")
    assert seen.page.locator("#sliders input[type=range]").count() == 2
    assert "informative" not in seen.page.inner_text("#sliders"), "the rates are unknown"
    assert not [error for error in seen.errors if "404" not in error]


def test_a_gallery_that_fails_to_load_is_not_called_missing(look: Look) -> None:
    failed = {"type": "about:blank", "title": "Model failed", "status": 500, "detail": "it was altered"}
    seen = look(statuses={"model/gallery": failed})
    assert "could not be loaded: it was altered" in seen.page.inner_text("#map")
    seen.page.set_input_files("input[aria-label='Open an image']", BOOT)
    seen.inspected()
    assert seen.page.locator("#sliders details").count() == 0


#: The bars of a chart of the inspector: both ends and the text beside each.
BARS = """(index) => {
    const chart = document.querySelectorAll('#inspection svg')[index];
    const words = [...chart.querySelectorAll('text.value')];
    return [...chart.querySelectorAll('rect')].map((bar, i) => ({
        left: bar.x.baseVal.value, right: bar.x.baseVal.value + bar.width.baseVal.value, text: words[i].textContent}));
}"""


def test_a_model_of_rows(look: Look, saved: Callable[[str], Path]) -> None:
    seen = look(saved("table-mlp-gaussian"))
    columns = seen.ask("model").json()["data"]["columns"]
    assert "without a gallery" in seen.page.inner_text("#map")
    seen.page.click("text=Enter a row")
    row = [41.0, 1.75, 72.0]
    assert len(columns) == len(row)
    for i, value in enumerate(row):
        seen.page.fill(f"#inspector .columns input >> nth={i}", str(value))
    seen.page.click("#inspector form >> text=Inspect")
    answer = seen.ask(QUERY.replace("=1&", "=16&"), {"inputs": [row]}).json()
    assert seen.inspected() == pytest.approx(answer["free_energy"][0], rel=1e-6)
    text = seen.page.inner_html("#inspection")
    assert all(name in text for name in columns)
    # Columns differ in units: each bar starts at the column's mean and is in its standard deviations.
    data = seen.ask("model").json()["data"]
    bars = seen.page.evaluate(BARS, 0)
    deviations = [(value - mean) / std for value, mean, std in zip(row, data["mean"], data["std"], strict=True)]
    lengths = np.array([bar["right"] - bar["left"] for bar in bars])
    np.testing.assert_allclose(lengths / lengths.max(), np.abs(deviations) / np.abs(deviations).max(), atol=0.01)
    assert [float(bar["text"].split(" | ")[0]) for bar in bars] == pytest.approx(row, rel=1e-3)
    costs = [float(bar["text"]) for bar in seen.page.evaluate(BARS, 1)]
    assert costs == pytest.approx(np.array(answer["per_dimension"][0]) - np.log(data["std"]), rel=1e-3)
    seen.page.click("#tab-sliders")
    seen.page.locator("#sliders input[type=range]").first.fill("1.5")
    seen.page.wait_for_selector("#sliders svg")
    seen.page.click("#tab-samples")
    seen.page.wait_for_selector("#samples table")
    seen.page.click("#samples table button >> nth=0")
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=sample 1 of seed 0")
    seen.page.click("#tab-card")
    assert not seen.errors or all("404" in error for error in seen.errors)
    assert_accessible(seen)
