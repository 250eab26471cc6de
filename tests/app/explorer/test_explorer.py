"""The page in a real browser, used as people use it; what it shows is held against the interface."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from model import checkpoint
from model.config import ModelConfig
from model.vae import VAE
from tests.app.explorer.conftest import Seen

Look = Callable[..., Seen]
BOOT = Path(__file__).parents[3] / "examples" / "ankle-boot.png"
SCREENSHOTS = BOOT.parents[1] / ".screenshots"
ROOMS = ("map", "sliders", "samples", "card")
#: Samples and seed of the free energies that the page shows of the shipped models: those of a calibration.
QUERY = "free-energy?samples=1&seed=0&per_dimension=true"


def pixels(seen: Seen, selector: str) -> np.ndarray:
    """What a canvas shows, height x width, grey."""
    address = seen.page.eval_on_selector(selector, "canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("L"))


def place(seen: Seen, index: int) -> tuple[float, float]:
    """Where on the screen a point of the map is, as the map itself lays its points out."""
    points = np.array(seen.ask("model/gallery").json()["projection"]["coordinates"])
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    low, high = points.min(0), points.max(0)
    unit = 0.94 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    offset = (points[index] - (low + high) / 2) * unit
    return box["x"] + box["width"] / 2 + offset[0], box["y"] + box["height"] / 2 - offset[1]


def alone(seen: Seen, count: int) -> list[int]:
    """Points with no other near them, so that a pointer means one."""
    points = np.array(seen.ask("model/gallery").json()["projection"]["coordinates"])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return [int(i) for i in np.argsort(-distance.min(1))[:count]]


def scored(seen: Seen, inputs: Any) -> float:
    return float(seen.ask(QUERY, {"inputs": inputs}).json()["free_energy"][0])


def test_it_asks_no_other_host_and_breaks_no_rule_of_its_own(look: Look) -> None:
    seen = look()
    for room in ROOMS:
        seen.page.click(f"#tab-{room}")
    seen.page.wait_for_selector(".grid button", state="attached")
    assert {urlsplit(url).netloc for url in seen.requests if not url.startswith("blob:")} == {
        urlsplit(seen.address).netloc
    }
    assert not seen.errors
    policy = seen.ask("").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_it_is_small_before_its_thumbnails(look: Look) -> None:
    seen = look()
    own = {url for url in seen.requests if "format=png" not in url and not url.startswith("blob:")}
    gets = [url for url in own if not url.endswith(("reconstruct?inputs=true", "encode")) and "free-energy" not in url]
    size = sum(len(seen.ask(url.removeprefix(f"{seen.address}/")).content) for url in gets)
    assert size < 500_000


def test_the_map_shows_what_a_point_is_and_puts_it_under_the_glass(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    (index,) = alone(seen, 1)
    seen.page.mouse.move(*place(seen, index))
    tip = seen.page.locator(".tip")
    tip.wait_for()
    label = gallery["label_names"][gallery["labels"][index]]
    assert label in tip.inner_text()
    seen.page.wait_for_selector(".tip canvas")
    seen.page.mouse.click(*place(seen, index))
    seen.page.wait_for_selector(f"#under[aria-busy=false] >> text=Here: {label}")
    given = seen.ask(f"model/gallery/input?index={index}").json()["inputs"]
    assert seen.under_the_glass() == pytest.approx(scored(seen, given), rel=1e-6)
    # On the map and under the glass one input has one score.
    assert seen.under_the_glass() == pytest.approx(gallery["scores"]["free_energy"][index], rel=1e-4)
    thumbnail = pixels(seen, "#under canvas[aria-label*='as the model sees']")
    np.testing.assert_array_equal(thumbnail, np.round(255 * np.array(given[0])).astype(np.uint8))
    # What the map says is under the glass follows whatever is put there.
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    expect(seen.page.locator("#map p[aria-live]")).to_have_text("")


def test_a_walk_from_one_point_to_another(look: Look) -> None:
    seen = look(reduced_motion="reduce")
    first, second = alone(seen, 2)
    start, end = place(seen, first), place(seen, second)
    seen.page.mouse.move(*start)
    seen.page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        seen.page.mouse.move(*(a + share * (b - a) for a, b in zip(start, end, strict=True)))
    seen.page.mouse.up()
    seen.page.wait_for_selector("section[aria-label='The walk']")
    means = [seen.ask(f"model/gallery/input?index={i}").json()["mean"][0] for i in (first, second)]
    ends = np.array(seen.ask("decode", {"latents": means}).json()["outputs"])
    for way in ("straight", "spherical"):
        assert seen.page.locator(f"button[aria-label*='of the {way} way']").count() == 24
        for frame, expected in ((1, ends[0]), (24, ends[1])):
            shown = pixels(seen, f"button[aria-label='Open frame {frame} of the {way} way'] canvas")
            assert np.abs(shown - np.round(255 * expected)).max() <= 1
    middle = [
        pixels(seen, f"button[aria-label='Open frame 12 of the {way} way'] canvas") for way in ("straight", "spherical")
    ]
    assert (middle[0] != middle[1]).any(), "the two ways are one"
    seen.page.fill("input[aria-label='Place on the way']", "23")
    assert np.abs(pixels(seen, "canvas[aria-label='The straight way']") - np.round(255 * ends[1])).max() <= 1


def test_the_map_by_keys_alone(look: Look) -> None:
    seen = look()
    seen.page.focus(".plane > canvas")
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("#map p[aria-live]:has-text('Under the glass')")
    for key in ("w", "ArrowLeft", "ArrowLeft", "w"):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("section[aria-label='The walk']")


def test_the_map_zooms_and_pans(look: Look) -> None:
    seen = look()
    (index,) = alone(seen, 1)
    x, y = place(seen, index)
    seen.page.mouse.move(x, y)
    seen.page.mouse.wheel(0, -600)
    seen.page.mouse.move(x + 1, y)
    seen.page.locator(".tip").wait_for()  # what is under the pointer stays there
    before = seen.page.locator(".tip").inner_text()
    seen.page.click("text=Zoom out" if seen.page.locator("text=Zoom out").count() else "button[aria-label='Zoom out']")
    seen.page.click("#map button:has-text('All')")
    seen.page.mouse.move(x, y)
    assert seen.page.locator(".tip").inner_text() == before


def test_colours_by_a_score_have_a_scale(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    assert seen.page.locator("#map .legend li").count() == len(set(gallery["labels"]))
    seen.page.select_option("#map select", "free_energy")
    low, high = re.findall(r"-?[\d,.]+", seen.page.inner_text("#map .legend li"))
    least, most = np.quantile(gallery["scores"]["free_energy"], [0.0, 1.0])
    assert least <= float(low.replace(",", "")) < float(high.replace(",", "")) <= most


def test_a_file_is_scored_as_the_interface_scores_it(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=ankle-boot.png")
    headers = {"content-type": "image/png"}
    answer = httpx2.post(f"{seen.address}/{QUERY}", content=BOOT.read_bytes(), headers=headers).json()
    assert seen.under_the_glass() == pytest.approx(answer["free_energy"][0], rel=1e-6)
    text = seen.page.inner_text("#under")
    rare = f"p = {answer['p_values']['free_energy'][0]:.2g}"
    assert rare in text
    assert rare in seen.page.text_content("#under svg .marked")  # type: ignore[operator]
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), np.asarray(Image.open(BOOT).convert("L")))
    seen.page.click("text=All of it as numbers")
    rows = dict(row.split("\t") for row in seen.page.inner_text("#under table").splitlines())
    assert float(rows["Distortion"].replace(",", "")) == pytest.approx(answer["distortion"][0], rel=1e-3)
    assert float(rows["Rate"].replace(",", "")) == pytest.approx(answer["rate"][0], rel=1e-3)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted(way: str, look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    large = Image.open(BOOT).convert("RGB").resize((90, 60))
    file = io.BytesIO()
    large.save(file, "png")
    seen.page.evaluate(
        """([way, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], 'wide.png', {type: 'image/png'}));
            const event = way === 'drop'
                ? new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true})
                : new ClipboardEvent('paste', {clipboardData: given, bubbles: true});
            document.querySelector('#glass').dispatchEvent(event);
        }""",
        [way, base64.b64encode(file.getvalue()).decode()],
    )
    seen.page.wait_for_selector(
        f"#under[aria-busy=false] >> text={'wide.png' if way == 'drop' else 'the pasted picture'}"
    )
    address, headers = f"{seen.address}/reconstruct?inputs=true", {"content-type": "image/png"}
    answer = httpx2.post(address, content=file.getvalue(), headers=headers).json()
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), np.round(255 * np.array(answer["inputs"][0])))


def test_a_digit_that_is_drawn(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    seen.page.click("#glass button:has-text('Draw one')")
    box = seen.page.locator(".draw canvas").bounding_box()
    assert box is not None
    seen.page.mouse.move(box["x"] + 110, box["y"] + 30)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 112, box["y"] + 190, steps=8)
    seen.page.mouse.up()
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=your drawing")
    drawn = pixels(seen, ".draw canvas")
    assert drawn.max() == 255
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), drawn)
    assert seen.under_the_glass() == pytest.approx(scored(seen, (drawn[None] / 255).tolist()), rel=1e-6)
    seen.page.click(".draw >> text=Clear")
    assert pixels(seen, ".draw canvas").max() == 0


def test_sliders_show_what_decode_gives(look: Look) -> None:
    seen = look(at="#sliders")
    rates = seen.ask("model/gallery").json()["rate_per_dimension"]
    first = int(np.argmax(rates))
    dials = seen.page.locator("#sliders input[type=range]")
    assert int(dials.first.get_attribute("data-dimension") or -1) == first
    latent = [0.0] * len(rates)
    latent[first] = 2.5
    dials.first.fill("2.5")
    seen.page.wait_for_selector(
        f"#sliders canvas[data-shown='{json.dumps(latent).replace('.0,', ',').replace('.0]', ']').replace(' ', '')}']"
    )
    answer = seen.ask("decode?format=png", {"latents": [latent]})
    np.testing.assert_array_equal(pixels(seen, "#sliders canvas"), np.asarray(Image.open(io.BytesIO(answer.content))))
    seen.page.click("text=Copy as JSON")
    seen.page.wait_for_selector("text=Copied")
    copied = json.loads(seen.page.evaluate("navigator.clipboard.readText()"))
    assert copied == {"latents": [latent]}
    seen.page.click("text=Copy as curl")
    expect(seen.page.locator("text=Copied")).to_have_count(2)
    command = seen.page.evaluate("navigator.clipboard.readText()")
    assert f"{seen.address}/decode?format=png" in command
    seen.page.click("text=All to 0")
    assert dials.first.input_value() == "0"


def test_the_sliders_take_what_is_under_the_glass(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    mean = seen.ask("encode", {"inputs": seen.ask("model/gallery/input?index=0").json()["inputs"]}).json()["mean"][0]
    seen.page.click("text=Take it to the sliders")
    seen.page.wait_for_selector("#sliders:not([hidden])")
    dial = seen.page.locator("#sliders input[type=range]").first
    dimension = int(dial.get_attribute("data-dimension") or -1)
    assert float(dial.input_value()) == pytest.approx(mean[dimension], abs=0.01)


def test_samples_are_those_of_the_seed(look: Look) -> None:
    seen = look(at="#samples")
    seen.page.wait_for_selector(".grid button >> nth=35")
    seen.page.fill("#samples input >> nth=0", "5")
    seen.page.fill("#samples input >> nth=1", "77")
    seen.page.fill("#samples input >> nth=2", "0.8")
    seen.page.click("#samples button.main")
    expect(seen.page.locator(".grid button")).to_have_count(5)
    query = "sample?n=5&seed=77&temperature=0.8"
    outputs = seen.ask(query).json()["outputs"]
    for i in (0, 4):
        shown = pixels(seen, f".grid button >> nth={i} >> canvas")
        assert np.abs(shown - np.round(255 * np.array(outputs[i]))).max() <= 1
    with seen.page.expect_download() as download:
        seen.page.click("#samples >> text=PNG")
    assert Path(download.value.path()).read_bytes() == seen.ask(f"{query}&format=png").content
    with seen.page.expect_download() as download:
        seen.page.click("#samples >> text=npz")
    with np.load(download.value.path()) as file:
        np.testing.assert_allclose(file["outputs"], outputs, atol=1e-6)
    seen.page.click(".grid button >> nth=2")
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=sample 3 of seed 77")
    assert seen.under_the_glass() == pytest.approx(scored(seen, [outputs[2]]), rel=1e-6)


def test_the_card_says_what_is_served_and_how_it_fares(look: Look) -> None:
    seen = look(at="#card")
    card = seen.ask("model").json()
    seen.page.wait_for_selector("#card >> text=Requests a second")
    text = seen.page.inner_text("#card")
    for said in (card["digest"][:12], f"{card['weights']:,}", card["training"]["dataset"], card["version"], "p99, ms"):
        assert said in text


def test_learning_curves_and_what_is_wrong_with_a_model(look: Look, address: Callable[..., str]) -> None:
    where = address("fashion-mnist-mlp")
    card, gallery = (httpx2.get(f"{where}/{path}").json() for path in ("model", "model/gallery"))
    gallery["learning"] = [
        {"epoch": epoch, "free_energy": 100 + 5 * abs(epoch - 3), "train_free_energy": 100 - epoch}
        for epoch in range(1, 11)
    ]
    gallery["active_units"] = 0
    card["calibrations"], card["evaluation"]["scales_at_floor"] = [], 0.25
    seen = look(at="#card", answers={"model": card, "model/gallery": gallery})
    assert seen.page.locator("#card svg[aria-label*='over the epochs'] polyline").count() == 2
    warned = seen.page.locator("#card .warn").all_inner_texts()
    for said in ("collapsed", "25 %", "no calibration", "overfit"):
        assert any(said in text for text in warned), said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1500])
def test_nothing_is_out_of_reach_or_sight(
    scheme: str, width: int, look: Look, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = look(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    seen.under_the_glass()
    for room in ROOMS:
        seen.page.click(f"#tab-{room}")
        seen.page.wait_for_timeout(300)
        # For the eye: whether it looks as it should no test can tell.
        seen.page.screenshot(path=SCREENSHOTS / f"{room}-{scheme}-{width}.png", full_page=True)
        found = Axe().run(seen.page).response["violations"]
        assert not found, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
        # No page is wider than its window, which would have to be moved to and fro to be read.
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_tabs_by_keys(look: Look) -> None:
    seen = look()
    seen.page.focus("#tab-map")
    seen.page.keyboard.press("ArrowRight")
    assert seen.page.get_attribute("#tab-sliders", "aria-selected") == "true"
    assert seen.page.is_visible("#sliders") and not seen.page.is_visible("#map")
    seen.page.keyboard.press("ArrowLeft")
    seen.page.keyboard.press("ArrowLeft")
    assert seen.page.get_attribute("#tab-card", "aria-selected") == "true"


KEYS = {"VAE_API_KEYS": "a-key-for-users-1234", "VAE_ADMIN_KEYS": "a-key-for-the-boss-5678"}


def test_with_keys_it_asks_for_one_and_forgets_it(look: Look) -> None:
    seen = look(ready=False, environment=KEYS)
    seen.page.wait_for_selector("dialog[open]")
    assert "needs a key" in seen.page.inner_text("#key-why")
    seen.page.fill("#key-value", "a-key-that-is-not-one")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("dialog[open] >> text=was not given out")
    seen.page.fill("#key-value", KEYS["VAE_API_KEYS"])
    seen.page.click("text=Use it")
    seen.page.wait_for_selector("body[data-ready]")
    seen.under_the_glass()
    seen.page.click("#tab-card")
    seen.page.wait_for_selector("#card >> text=for administrators")
    kept = seen.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert "a-key" not in kept
    seen.page.reload()
    seen.page.wait_for_selector("dialog[open]")
    seen.page.click("dialog >> text=Cancel")
    seen.page.wait_for_selector("#alerts >> text=needs a key")


def test_large_pictures_and_small_limits(look: Look, tmp_path: Path) -> None:
    """More pixels than a call of JavaScript may have arguments; fewer rows and draws than the page asks for else."""
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
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=sample 4 of seed 0")
    answer = seen.ask("sample?n=8").json()["outputs"][3]
    path = "free-energy?samples=2&seed=0&per_dimension=true"
    expected = seen.ask(path, {"inputs": [answer]}).json()["free_energy"][0]
    assert seen.under_the_glass() == pytest.approx(expected, rel=1e-6)
    seen.page.click("#tab-sliders")
    assert seen.page.locator("#sliders input[type=range]").count() == 2
    assert "carry" not in seen.page.inner_text("#sliders"), "nobody has measured that"
    assert not [said for said in seen.errors if "404" not in said]


def test_a_gallery_that_does_not_come_is_not_one_that_is_not_there(look: Look) -> None:
    failed = {"type": "about:blank", "title": "Model failed", "status": 500, "detail": "it was altered"}
    seen = look(statuses={"model/gallery": failed})
    assert "could not be loaded: it was altered" in seen.page.inner_text("#map")
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    seen.under_the_glass()
    assert seen.page.locator("#sliders details").count() == 0


def test_an_alert_stays_until_the_same_succeeds(look: Look) -> None:
    seen = look(at="#samples")
    seen.under_the_glass()
    with seen.page.expect_response(re.compile("reconstruct")):
        seen.page.set_input_files(
            "input[aria-label='Open a picture']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
    seen.page.wait_for_selector("#alerts .alert")
    seen.page.click("#samples button.main")
    seen.page.click("#tab-sliders")
    seen.page.wait_for_selector("#sliders canvas[data-shown]")
    assert seen.page.locator("#alerts .alert").count() == 1
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    expect(seen.page.locator("#alerts .alert")).to_have_count(0)


def test_what_fails_is_said(look: Look, tmp_path: Path) -> None:
    seen = look(at="#samples")
    seen.page.wait_for_selector(".grid button")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    seen.page.set_input_files("input[aria-label='Open a picture']", bad)
    alert = seen.page.wait_for_selector("#alerts .alert")
    assert alert is not None
    assert seen.page.get_attribute("#alerts", "role") == "alert"
    assert "image" in alert.inner_text()
    seen.page.click("#alerts >> text=Dismiss")
    assert not seen.page.locator("#alerts .alert").count()
    samples = re.compile(r"/sample\?")
    seen.page.route(samples, lambda route: route.abort())
    seen.page.click("#samples button.main")
    seen.page.wait_for_selector("#alerts >> text=does not answer")
    seen.page.unroute(samples)
    seen.page.click("#samples button.main")
    expect(seen.page.locator("#alerts .alert")).to_have_count(0)


def test_a_model_of_tables(look: Look, saved: Callable[[str], Path]) -> None:
    seen = look(saved("table-mlp-gaussian"))
    columns = seen.ask("model").json()["data"]["columns"]
    assert "without a gallery" in seen.page.inner_text("#map")
    seen.page.click("text=A row of your own")
    row = [41.0, 1.75, 72.0]
    assert len(columns) == len(row)
    for i, value in enumerate(row):
        seen.page.fill(f"#glass .columns input >> nth={i}", str(value))
    seen.page.click("text=Put it under the glass")
    assert seen.under_the_glass() == pytest.approx(
        seen.ask(QUERY.replace("=1&", "=16&"), {"inputs": [row]}).json()["free_energy"][0], rel=1e-6
    )
    text = seen.page.inner_html("#under")
    assert all(name in text for name in columns)
    seen.page.click("#tab-sliders")
    seen.page.locator("#sliders input[type=range]").first.fill("1.5")
    seen.page.wait_for_selector("#sliders svg")
    seen.page.click("#tab-samples")
    seen.page.wait_for_selector("#samples table")
    seen.page.click("#samples table button >> nth=0")
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=sample 1 of seed 0")
    seen.page.click("#tab-card")
    assert not seen.errors or all("404" in said for said in seen.errors)
    found = Axe().run(seen.page).response["violations"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
